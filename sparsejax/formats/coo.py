"""Row, column and value of each kept entry: the smallest where hardly anything is left."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.formats import matrix


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class COO:
    """Coordinates and values, in row-major order.

    Attributes:
      rows: Row of each entry in the view, in the smallest unsigned type.
      columns: Its column, likewise.
      values: The entries on the mask.
      shape: The shape of the parameter.

    >>> stored = COO.from_dense(jnp.eye(3), np.array([False, True, False]))
    >>> stored.rows.tolist(), stored.columns.tolist(), stored.values.tolist()
    ([0, 1, 2], [1, 1, 1], [0.0, 1.0, 0.0])
    """

    rows: jax.Array
    columns: jax.Array
    values: jax.Array
    shape: tuple[int, ...] = field(metadata={"static": True})

    @classmethod
    def from_dense(cls, array: Any, mask: Any) -> "COO":
        """Stores the entries on the mask.

        Args:
          array: The parameter, of any shape and dtype.
          mask: Booleans that broadcast to it.

        Raises:
          ValueError: if the mask does not fit, or one of the two is traced.
        """
        kept, mask = matrix.on_host(array, mask)
        height, width = matrix.view(kept.shape)
        rows, columns = np.nonzero(mask.reshape(height, width))
        return cls(
            matrix.index(rows, max(height - 1, 0)),
            matrix.index(columns, max(width - 1, 0)),
            jnp.asarray(kept[mask]),
            kept.shape,
        )

    @property
    def nbytes(self) -> int:
        """The bytes of the stored arrays."""
        return matrix.nbytes(self)

    def coordinates(self) -> tuple[jax.Array, jax.Array]:
        """Returns row and column of every stored entry in the view, in the order of `values`."""
        return self.rows.astype(jnp.int32), self.columns.astype(jnp.int32)

    def todense(self) -> jax.Array:
        """Returns the parameter: the stored entries, and exactly 0 elsewhere."""
        return matrix.scatter(self)
