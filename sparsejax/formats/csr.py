"""Compressed rows, and compressed columns: one index and one value for each kept entry."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.formats import matrix


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CSR:
    """Compressed rows: of each input of a kernel, the outputs that it reaches.

    Attributes:
      pointers: Where each row of the view starts among the entries, and behind the last one where
        it ends, in the smallest unsigned type.
      indices: The column of each entry, ascending in a row, likewise.
      values: The entries on the mask, row after row.
      shape: The shape of the parameter.

    >>> stored = CSR.from_dense(jnp.array([[0.0, 3.0], [0.0, 0.0], [4.0, 5.0]]),
    ...                         np.array([[False, True], [False, False], [True, True]]))
    >>> stored.pointers.tolist(), stored.indices.tolist(), stored.values.tolist()
    ([0, 1, 1, 3], [1, 0, 1], [3.0, 4.0, 5.0])
    """

    pointers: jax.Array
    indices: jax.Array
    values: jax.Array
    shape: tuple[int, ...] = field(metadata={"static": True})

    @classmethod
    def from_dense(cls, array: Any, mask: Any) -> "CSR":
        """Stores the entries on the mask.

        Args:
          array: The parameter, of any shape and dtype.
          mask: Booleans that broadcast to it.

        Raises:
          ValueError: if the mask does not fit, or one of the two is traced.
        """
        kept, mask = matrix.on_host(array, mask)
        size = matrix.view(kept.shape)
        return cls(*_compress(kept.reshape(size), mask.reshape(size)), kept.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of the stored arrays."""
        return matrix.nbytes(self)

    def coordinates(self) -> tuple[jax.Array, jax.Array]:
        """Returns row and column of every stored entry in the view, in the order of `values`."""
        rows = matrix.expand_pointers(self.pointers, len(self.values))
        return rows, self.indices.astype(jnp.int32)

    def todense(self) -> jax.Array:
        """Returns the parameter: the stored entries, and exactly 0 elsewhere."""
        return matrix.scatter(self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CSC:
    """Compressed columns: of each output of a kernel, the inputs that it reads.

    Attributes:
      pointers: Where each column of the view starts among the entries, and behind the last one
        where it ends, in the smallest unsigned type.
      indices: The row of each entry, ascending in a column, likewise.
      values: The entries on the mask, column after column.
      shape: The shape of the parameter.

    >>> stored = CSC.from_dense(jnp.array([[0.0, 3.0], [4.0, 5.0]]), np.array([[False], [True]]))
    >>> stored.pointers.tolist(), stored.indices.tolist(), stored.values.tolist()
    ([0, 1, 2], [1, 1], [4.0, 5.0])
    """

    pointers: jax.Array
    indices: jax.Array
    values: jax.Array
    shape: tuple[int, ...] = field(metadata={"static": True})

    @classmethod
    def from_dense(cls, array: Any, mask: Any) -> "CSC":
        """Stores the entries on the mask.

        Args:
          array: The parameter, of any shape and dtype.
          mask: Booleans that broadcast to it.

        Raises:
          ValueError: if the mask does not fit, or one of the two is traced.
        """
        kept, mask = matrix.on_host(array, mask)
        size = matrix.view(kept.shape)
        return cls(*_compress(kept.reshape(size).T, mask.reshape(size).T), kept.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of the stored arrays."""
        return matrix.nbytes(self)

    def coordinates(self) -> tuple[jax.Array, jax.Array]:
        """Returns row and column of every stored entry in the view, in the order of `values`."""
        columns = matrix.expand_pointers(self.pointers, len(self.values))
        return self.indices.astype(jnp.int32), columns

    def todense(self) -> jax.Array:
        """Returns the parameter: the stored entries, and exactly 0 elsewhere."""
        return matrix.scatter(self)


def _compress(kept: np.ndarray, mask: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pointers, indices and values of the rows of a matrix."""
    pointers = np.concatenate([[0], np.cumsum(np.count_nonzero(mask, axis=1))])
    return (
        matrix.index(pointers, int(pointers[-1])),
        matrix.index(np.nonzero(mask)[1], max(mask.shape[1] - 1, 0)),
        jnp.asarray(kept[mask]),
    )
