"""A sparse matrix that is ready for products: its entries found by rows and by columns."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax.formats import matrix
from sparsejax.formats.bitmask import Bitmask
from sparsejax.formats.csr import CSC, CSR
from sparsejax.formats.matrix import Format


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Indexed:
    """The entries of another format, and where each row and each column of the view has them.

    Each direction takes two indices an entry: more memory than any other format, and no search in a
    product or its gradients. Make it once for each mask, and put new values in with `with_values`.

    Attributes:
      values: The stored entries, in the order and the shape of the format that they come from.
      row_pointers: Where each row starts, and the last one ends.
      columns: The columns of the entries, row by row, uint16 or int32.
      by_row: The places of these among the values; None where the values are row by row.
      column_pointers: Where each column starts, and the last one ends.
      rows: The rows of the entries, column by column, uint16 or int32.
      by_column: The places of these among the values; None where those are column by column.
      shape: The shape of the parameter.
    """

    values: jax.Array
    row_pointers: jax.Array
    columns: jax.Array
    by_row: jax.Array | None
    column_pointers: jax.Array
    rows: jax.Array
    by_column: jax.Array | None
    shape: tuple[int, ...] = field(metadata={"static": True})

    @property
    def nbytes(self) -> int:
        """The bytes of the stored arrays."""
        return matrix.nbytes(self)

    def with_values(self, values: jax.Array) -> "Indexed":
        """Returns the same places with other entries, of the same shape."""
        if values.shape != self.values.shape:
            raise ValueError(f"{self.values.shape} values are needed, got {values.shape}")
        return dataclasses.replace(self, values=values)

    def coordinates(self) -> tuple[jax.Array, jax.Array]:
        """Returns row and column of every stored entry in the view, in the order of `values`."""
        height, width = matrix.view(self.shape)
        entries = self.values.size
        # Padding is in no row; it stays beyond the view, and so does what stands for it here.
        rows = matrix.expand_pointers(self.row_pointers, entries)
        inside = jnp.arange(entries) < self.row_pointers[-1]
        by_row = jnp.arange(entries) if self.by_row is None else self.by_row
        places = jnp.where(inside, by_row, entries)
        beyond = jnp.full(entries, height, jnp.int32), jnp.full(entries, width, jnp.int32)
        return (
            beyond[0].at[places].set(rows, mode="drop"),
            beyond[1].at[places].set(self.columns.astype(jnp.int32), mode="drop"),
        )

    def todense(self) -> jax.Array:
        """Returns the parameter: the stored entries, and exactly 0 elsewhere."""
        return matrix.scatter(self)


def index(w: Format) -> Indexed:
    """Finds the entries of a sparse matrix by rows and by columns, in time linear in their number.

    Args:
      w: Any format; its arrays may be traced.

    Raises:
      ImportError: if Numba is not installed.

    >>> from sparsejax import formats
    >>> eye = formats.COO.from_dense(jnp.eye(2), jnp.eye(2, dtype=bool))
    >>> index(eye).columns.tolist()
    [0, 1]
    """
    if isinstance(w, Indexed):
        return w
    a, b, c, d, e, f = cpu().sort(*w.coordinates(), *matrix.view(w.shape))
    # What would only count from 0 is left out.
    by_row = None if isinstance(w, Bitmask | CSR) else c
    by_column = None if isinstance(w, CSC) else f
    return Indexed(w.values, a, b, by_row, d, e, by_column, w.shape)


def cpu() -> Any:
    """Returns the module of the kernels that need Numba, which is imported only here.

    Raises:
      ImportError: if Numba is not installed; the message names the extra.
    """
    try:
        from sparsejax.kernels import cpu
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] not in ("numba", "llvmlite"):
            raise
        raise ImportError("this needs numba: pip install 'sparsejax[kernels]'") from error
    return cpu
