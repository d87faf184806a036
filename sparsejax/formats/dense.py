"""No compression: what a parameter takes that stays dense, and what the others are measured by."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax.formats import matrix


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dense:
    """All entries, zeros included.

    Attributes:
      values: The parameter.
      shape: Its shape.

    >>> Dense.from_dense(jnp.array([1.0, 2.0]), jnp.array([True, False])).values.tolist()
    [1.0, 0.0]
    """

    values: jax.Array
    shape: tuple[int, ...] = field(metadata={"static": True})

    @classmethod
    def from_dense(cls, array: Any, mask: Any) -> "Dense":
        """Sets the entries off the mask to 0.

        Args:
          array: The parameter, of any shape and dtype.
          mask: Booleans that broadcast to it.

        Raises:
          ValueError: if the mask does not fit, or one of the two is traced.
        """
        kept, _ = matrix.on_host(array, mask)
        return cls(jnp.asarray(kept), kept.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of the stored array."""
        return matrix.nbytes(self)

    def coordinates(self) -> tuple[jax.Array, jax.Array]:
        """Returns row and column of every stored entry in the view, in the order of `values`."""
        rows, columns = jnp.indices(matrix.view(self.shape), dtype=jnp.int32)
        return rows.ravel(), columns.ravel()

    def todense(self) -> jax.Array:
        """Returns the parameter."""
        return self.values
