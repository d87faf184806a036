"""N:M packed: n values of every m neighbours, with two bits for the place of each."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.formats import matrix


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NM:
    """n values of every m neighbours along the inputs. Mishra et al. 2021, arXiv 2104.08378.

    The neighbours are those of the view, which for kernels of (in, out), and of convolutions whose
    number of inputs m divides, are those of `sparsejax.nm`. A group with fewer than n entries on
    the mask is filled up with zeros; so is the last one, where m does not divide the inputs.

    Attributes:
      indices: uint8, the places of four values in a byte, the first in the lowest two bits.
      values: (groups, n, outputs).
      m: The neighbours of a group, at most 4.
      shape: The shape of the parameter.

    >>> stored = NM.from_dense(jnp.array([[5.0], [0.0], [0.0], [6.0]]),
    ...                        np.array([[True], [False], [False], [True]]))
    >>> stored.values.ravel().tolist(), stored.indices.tolist() == [0 + 4 * 3]
    ([5.0, 6.0], True)
    """

    indices: jax.Array
    values: jax.Array
    m: int = field(metadata={"static": True})
    shape: tuple[int, ...] = field(metadata={"static": True})

    @classmethod
    def from_dense(cls, array: Any, mask: Any, n: int = 2, m: int = 4) -> "NM":
        """Stores n entries of every group, those on the mask among them.

        Args:
          array: The parameter, of any shape and dtype.
          mask: Booleans that broadcast to it, at most n of them true in a group.
          n: Entries of a group that are stored.
          m: Neighbours of a group, from n to 4.

        Raises:
          ValueError: if a group has more than n entries on the mask, n and m do not fit, the mask
            does not, or one of the two is traced.
        """
        if not 1 <= n <= m <= 4:
            raise ValueError(f"indices of two bits need 1 <= n <= m <= 4, got n = {n}, m = {m}")
        kept, mask = matrix.on_host(array, mask)
        groups, grouped = _group(kept, m), _group(mask, m)
        most = int(grouped.sum(axis=1).max(initial=0))
        if most > n:
            raise ValueError(f"{n}:{m} stores {n} of {m} neighbours, but the mask keeps {most}")
        # The entries on the mask come first, then others to fill up, then all in their order.
        places = np.sort(np.argsort(~grouped, axis=1, kind="stable")[:, :n], axis=1)
        values = np.take_along_axis(groups, places, axis=1)
        return cls(jnp.asarray(_pack(places)), jnp.asarray(values), m, kept.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of the stored arrays."""
        return matrix.nbytes(self)

    def coordinates(self) -> tuple[jax.Array, jax.Array]:
        """Returns row and column of every stored entry in the view, in the order of `values`.

        What fills up the last group may have coordinates beyond the view.
        """
        shape = self.values.shape
        quarters = self.indices[:, None] >> jnp.arange(0, 8, 2, dtype=jnp.uint8) & 3
        places = quarters.ravel()[: self.values.size].reshape(shape).astype(jnp.int32)
        groups, _, columns = jnp.indices(shape, dtype=jnp.int32)
        return (groups * self.m + places).ravel(), columns.ravel()

    def todense(self) -> jax.Array:
        """Returns the parameter: the stored entries, and exactly 0 elsewhere."""
        return matrix.scatter(self)


def _group(array: np.ndarray, m: int) -> np.ndarray:
    """The view as (groups, m, outputs)."""
    rows, columns = matrix.view(array.shape)
    groups = -(-rows // m)
    padded = np.pad(array.reshape(rows, columns), [(0, groups * m - rows), (0, 0)])
    return padded.reshape(groups, m, columns)


def _pack(places: np.ndarray) -> np.ndarray:
    """Four numbers below 4 in a byte."""
    flat = places.ravel().astype(np.uint8)
    quarters = np.pad(flat, (0, -flat.size % 4)).reshape(-1, 4)
    return (quarters << np.arange(0, 8, 2, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
