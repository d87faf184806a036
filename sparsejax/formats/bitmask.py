"""One bit for each entry, and the kept values: the smallest at moderate sparsities."""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.formats import matrix


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bitmask:
    """The mask as bits, and the values on it. A mask of channels takes one bit for each channel.

    Attributes:
      bits: uint8, eight entries of the mask in a byte, the first in the lowest bit.
      values: The entries on the mask, in row-major order.
      shape: The shape of the parameter.
      mask_shape: The shape of the mask, which broadcasts to it.

    >>> stored = Bitmask.from_dense(jnp.array([5.0, 6.0, 7.0]), np.array([True, False, True]))
    >>> stored.bits.tolist(), stored.values.tolist(), stored.nbytes
    ([5], [5.0, 7.0], 9)
    """

    bits: jax.Array
    values: jax.Array
    shape: tuple[int, ...] = field(metadata={"static": True})
    mask_shape: tuple[int, ...] = field(metadata={"static": True})

    @classmethod
    def from_dense(cls, array: Any, mask: Any) -> "Bitmask":
        """Stores the entries on the mask.

        Args:
          array: The parameter, of any shape and dtype.
          mask: Booleans that broadcast to it.

        Raises:
          ValueError: if the mask does not fit, or one of the two is traced.
        """
        kept, full = matrix.on_host(array, mask)
        bits = np.packbits(np.asarray(mask).ravel(), bitorder="little")
        return cls(jnp.asarray(bits), jnp.asarray(kept[full]), kept.shape, np.shape(mask))

    @property
    def nbytes(self) -> int:
        """The bytes of the stored arrays."""
        return matrix.nbytes(self)

    def mask(self) -> jax.Array:
        """Returns the mask, with the shape that it was given."""
        bits = jnp.unpackbits(self.bits, count=math.prod(self.mask_shape), bitorder="little")
        return bits.astype(bool).reshape(self.mask_shape)

    def coordinates(self) -> tuple[jax.Array, jax.Array]:
        """Returns row and column of every stored entry in the view, in the order of `values`."""
        mask = jnp.broadcast_to(self.mask(), self.shape).reshape(matrix.view(self.shape))
        rows, columns = jnp.nonzero(mask, size=len(self.values))
        return rows.astype(jnp.int32), columns.astype(jnp.int32)

    def todense(self) -> jax.Array:
        """Returns the parameter: the stored entries, and exactly 0 elsewhere."""
        return matrix.scatter(self)
