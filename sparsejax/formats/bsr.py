"""Compressed rows of dense blocks: one index for each block, for masks made of blocks."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.formats import matrix


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BSR:
    """The blocks of the view that hold a kept entry, row of blocks after row of blocks.

    A block is stored whole, with zeros off the mask; where the blocks do not divide the view, those
    at its end are filled up with zeros.

    Attributes:
      pointers: Where each row of blocks starts among the blocks, and behind the last one where it
        ends, in the smallest unsigned type.
      indices: The column of blocks that each block stands in, ascending in a row, likewise.
      values: (blocks, height, width).
      shape: The shape of the parameter.

    >>> stored = BSR.from_dense(jnp.ones((4, 4)), np.arange(4) < 1, (2, 2))
    >>> stored.indices.tolist(), stored.values[0].tolist()
    ([0, 0], [[1.0, 0.0], [1.0, 0.0]])
    """

    pointers: jax.Array
    indices: jax.Array
    values: jax.Array
    shape: tuple[int, ...] = field(metadata={"static": True})

    @classmethod
    def from_dense(cls, array: Any, mask: Any, block: tuple[int, int] = (16, 16)) -> "BSR":
        """Stores the blocks that hold an entry on the mask.

        Args:
          array: The parameter, of any shape and dtype.
          mask: Booleans that broadcast to it.
          block: Rows and columns of a block of the view.

        Raises:
          ValueError: if a size is below 1, the mask does not fit, or one of the two is traced.
        """
        if len(block) != 2 or min(block) < 1:
            raise ValueError(f"a block has two sizes of at least 1, got {tuple(block)}")
        kept, mask = matrix.on_host(array, mask)
        blocks = _cut(kept, block)
        full = _cut(mask, block).any(axis=(2, 3))
        pointers = np.concatenate([[0], np.cumsum(np.count_nonzero(full, axis=1))])
        return cls(
            matrix.index(pointers, int(pointers[-1])),
            matrix.index(np.nonzero(full)[1], max(full.shape[1] - 1, 0)),
            jnp.asarray(blocks[full]),
            kept.shape,
        )

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of a block."""
        return self.values.shape[-2], self.values.shape[-1]

    @property
    def nbytes(self) -> int:
        """The bytes of the stored arrays."""
        return matrix.nbytes(self)

    def coordinates(self) -> tuple[jax.Array, jax.Array]:
        """Returns row and column of every stored entry in the view, in the order of `values`.

        What fills up a block at the end of the view has coordinates beyond it.
        """
        height, width = self.block
        row = matrix.expand_pointers(self.pointers, len(self.values)) * height
        column = self.indices.astype(jnp.int32) * width
        rows = row[:, None, None] + jnp.arange(height, dtype=jnp.int32)[:, None]
        columns = column[:, None, None] + jnp.arange(width, dtype=jnp.int32)
        shape = self.values.shape
        return jnp.broadcast_to(rows, shape).ravel(), jnp.broadcast_to(columns, shape).ravel()

    def todense(self) -> jax.Array:
        """Returns the parameter: the stored entries, and exactly 0 elsewhere."""
        return matrix.scatter(self)


def _cut(array: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """The view in blocks: (rows of blocks, columns of blocks, height, width)."""
    view = array.reshape(matrix.view(array.shape))
    padding = [(0, -n % size) for n, size in zip(view.shape, block, strict=True)]
    view = np.pad(view, padding)
    height, width = block
    split = view.reshape(view.shape[0] // height, height, view.shape[1] // width, width)
    return split.transpose(0, 2, 1, 3)
