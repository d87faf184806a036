"""To and from the sparse matrices of jax and of scipy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

from sparsejax.formats import matrix
from sparsejax.formats.csr import CSC, CSR
from sparsejax.formats.matrix import Format


def to_bcoo(stored: Format) -> sparse.BCOO:
    """Returns the view of a parameter as jax's coordinate format.

    Args:
      stored: Any format; its arrays may be traced.

    >>> from sparsejax.formats import Bitmask
    >>> to_bcoo(Bitmask.from_dense(jnp.eye(3), np.eye(3, dtype=bool))).indices.tolist()
    [[0, 0], [1, 1], [2, 2]]
    """
    # Coordinates beyond the view are padding to jax, too.
    indices = jnp.stack(stored.coordinates(), axis=1)
    return sparse.BCOO((stored.values.ravel(), indices), shape=matrix.view(stored.shape))


def to_bcsr(stored: Format, *, transpose: bool = False) -> sparse.BCSR:
    """Returns the view of a parameter as jax's compressed rows.

    Args:
      stored: Any format; its arrays may be traced.
      transpose: Whether the view is transposed: outputs x inputs.

    >>> from sparsejax.formats import COO
    >>> to_bcsr(COO.from_dense(jnp.eye(3), np.eye(3, dtype=bool))).indptr.tolist()
    [0, 1, 2, 3]
    """
    height, width = matrix.view(stored.shape)[:: -1 if transpose else 1]
    if isinstance(stored, CSC if transpose else CSR):
        parts = (stored.values, stored.indices.astype(jnp.int32), stored.pointers.astype(jnp.int32))
        return sparse.BCSR(parts, shape=(height, width))
    rows, columns = stored.coordinates()[:: -1 if transpose else 1]
    # Padding goes behind the last row.
    rows = jnp.where((rows < height) & (columns < width), rows, height)
    rows, columns, order = jax.lax.sort((rows, columns, jnp.arange(len(rows))), num_keys=2)
    pointers = jnp.searchsorted(rows, jnp.arange(height + 1), side="left").astype(jnp.int32)
    parts = (stored.values.ravel()[order], columns.astype(jnp.int32), pointers)
    return sparse.BCSR(parts, shape=(height, width))


def from_jax(array: sparse.BCOO | sparse.BCSR) -> CSR:
    """Returns compressed rows of a matrix of jax's; entries that it stores are kept, zeros too.

    Args:
      array: A BCOO or BCSR matrix without batch or dense dimensions. Duplicates are summed.

    Raises:
      ValueError: if it has such dimensions, is traced, or is no matrix.

    >>> from_jax(sparse.BCOO.fromdense(jnp.eye(3))).indices.tolist()
    [0, 1, 2]
    """
    if array.n_batch or array.n_dense or array.ndim != 2:
        raise ValueError(
            f"a matrix without batch and dense dimensions is needed, got {array.ndim} dimensions, "
            f"{array.n_batch} of batches and {array.n_dense} dense"
        )
    coordinates = array.to_bcoo() if isinstance(array, sparse.BCSR) else array
    rows, columns = np.asarray(coordinates.indices).T
    return _from_coordinates(rows, columns, np.asarray(coordinates.data), tuple(array.shape))


def to_scipy(stored: Format) -> Any:
    """Returns the view of a parameter as scipy's `csr_array`, on the host.

    Args:
      stored: Any format of a dtype that scipy knows; it has no bfloat16 and no float16.

    Raises:
      ImportError: if scipy is not installed.
      ValueError: if scipy does not know the dtype.

    >>> from sparsejax.formats import COO
    >>> to_scipy(COO.from_dense(jnp.eye(3), np.eye(3, dtype=bool))).nnz
    3
    """
    scipy_sparse = _scipy()
    values = np.asarray(stored.values).ravel()
    if values.dtype.kind not in "biufc" or values.dtype == np.float16:
        raise ValueError(f"scipy.sparse has no {values.dtype}")
    rows, columns = map(np.asarray, stored.coordinates())
    height, width = matrix.view(stored.shape)
    inside = (rows < height) & (columns < width)
    parts = (values[inside], (rows[inside], columns[inside]))
    return scipy_sparse.csr_array(scipy_sparse.coo_array(parts, shape=(height, width)))


def from_scipy(array: Any) -> CSR:
    """Returns compressed rows of any sparse matrix of scipy's; stored zeros are kept.

    Args:
      array: A matrix or array of two dimensions.

    Raises:
      ImportError: if scipy is not installed.
      ValueError: if it is not one.

    >>> import scipy.sparse
    >>> from_scipy(scipy.sparse.eye_array(3, dtype=np.float32)).values.tolist()
    [1.0, 1.0, 1.0]
    """
    if not _scipy().issparse(array) or array.ndim != 2:
        raise ValueError("a sparse matrix of scipy's with two dimensions is needed")
    coordinates = array.tocoo()
    return _from_coordinates(coordinates.row, coordinates.col, coordinates.data, array.shape)


def _from_coordinates(
    rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, ...]
) -> CSR:
    """Compressed rows of entries in any order, duplicates summed, padding left out."""
    inside = (rows < shape[0]) & (columns < shape[1])
    rows, columns, values = rows[inside], columns[inside], values[inside]
    order = np.lexsort((columns, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    new = np.ones(len(rows), bool)
    new[1:] = (np.diff(rows) != 0) | (np.diff(columns) != 0)
    if not new.all():
        values = np.add.reduceat(values, np.flatnonzero(new)).astype(values.dtype)
    rows, columns = rows[new], columns[new]
    pointers = np.searchsorted(rows, np.arange(shape[0] + 1))
    return CSR(
        matrix.index(pointers, len(values)),
        matrix.index(columns, max(shape[1] - 1, 0)),
        jnp.asarray(values),
        shape,
    )


def _scipy() -> Any:
    try:
        import scipy.sparse
    except ImportError as error:
        raise ImportError("this needs scipy: pip install scipy") from error
    return scipy.sparse
