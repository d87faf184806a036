"""Condensed constant fan-in: a small dense matrix of the weights of the neurons that are left."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.formats import matrix


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FanIn:
    """As many inputs for every neuron; ablated ones are gone. Lasby et al. 2024, arXiv 2305.02299.

    Attributes:
      neurons: The outputs that have inputs at all, ascending, in the smallest unsigned type.
      indices: (neurons, fan-in), the rows of the view that each of them reads, ascending, likewise.
      values: (neurons, fan-in), the weights.
      shape: The shape of the parameter.

    >>> stored = FanIn.from_dense(jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    ...                           np.array([[True, False, False], [False, False, True]]))
    >>> stored.neurons.tolist(), stored.indices.tolist(), stored.values.tolist()
    ([0, 2], [[0], [1]], [[1.0], [6.0]])
    """

    neurons: jax.Array
    indices: jax.Array
    values: jax.Array
    shape: tuple[int, ...] = field(metadata={"static": True})

    @classmethod
    def from_dense(cls, array: Any, mask: Any) -> "FanIn":
        """Stores the entries on the mask.

        Args:
          array: The parameter, of any shape and dtype.
          mask: Booleans that broadcast to it; each output keeps the same number of inputs, or none.

        Raises:
          ValueError: if it does not, the mask does not fit, or one of the two is traced.
        """
        kept, mask = matrix.on_host(array, mask)
        size = matrix.view(kept.shape)
        kept, flags, shape = kept.reshape(size).T, mask.reshape(size).T, kept.shape
        counts = np.count_nonzero(flags, axis=1)
        neurons = np.flatnonzero(counts)
        fan_in = int(counts.max(initial=0))
        if (counts[neurons] != fan_in).any():
            raise ValueError(
                f"a condensed matrix needs the same fan-in for every neuron, but it runs from "
                f"{counts[neurons].min()} to {fan_in}"
            )
        inputs = np.nonzero(flags)[1].reshape(len(neurons), fan_in)
        return cls(
            matrix.index(neurons, max(size[1] - 1, 0)),
            matrix.index(inputs, max(size[0] - 1, 0)),
            jnp.asarray(kept[flags].reshape(inputs.shape)),
            shape,
        )

    @property
    def nbytes(self) -> int:
        """The bytes of the stored arrays."""
        return matrix.nbytes(self)

    def coordinates(self) -> tuple[jax.Array, jax.Array]:
        """Returns row and column of every stored entry in the view, in the order of `values`."""
        columns = jnp.broadcast_to(self.neurons.astype(jnp.int32)[:, None], self.values.shape)
        return self.indices.astype(jnp.int32).ravel(), columns.ravel()

    def todense(self) -> jax.Array:
        """Returns the parameter: the stored entries, and exactly 0 elsewhere."""
        return matrix.scatter(self)
