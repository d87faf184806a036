"""What all formats share: the two-dimensional view of a parameter, and the way back from it."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Format(Protocol):
    """What every format has. All are immutable pytrees whose shapes are static."""

    @property
    def values(self) -> jax.Array:
        """The stored entries, in the order of the format."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the parameter."""

    @property
    def nbytes(self) -> int:
        """The bytes of the stored arrays."""

    def coordinates(self) -> tuple[jax.Array, jax.Array]:
        """Returns row and column of every stored entry in the view, in the order of `values`."""

    def todense(self) -> jax.Array:
        """Returns the parameter: the stored entries, and exactly 0 elsewhere."""


def view(shape: Sequence[int]) -> tuple[int, int]:
    """Returns the shape of the two-dimensional view of a parameter: inputs x outputs.

    All axes but the last are inputs, as a product with the parameter sees it, so a convolution's
    (height, width, in, out) is (height × width × in, out). A vector is one row, a scalar one entry.

    Args:
      shape: The shape of the parameter.

    >>> view((3, 3, 16, 32)), view((784, 300)), view((10,)), view(())
    ((144, 32), (784, 300), (1, 10), (1, 1))
    """
    shape = tuple(shape)
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def on_host(array: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns an array with exact zeros off its mask, and the mask broadcast to it, on the host.

    Args:
      array: An array of any shape and dtype.
      mask: Booleans that broadcast to it.

    Raises:
      ValueError: if one is traced (how many entries are stored decides the shapes), or the mask
        does not fit.

    >>> kept, mask = on_host(jnp.array([1.0, 2.0]), True)
    >>> kept.tolist(), mask.tolist()
    ([1.0, 2.0], [True, True])
    """
    if isinstance(array, jax.core.Tracer) or isinstance(mask, jax.core.Tracer):
        raise ValueError(
            "a sparse format is made from concrete arrays, outside of jit and vmap: the number of "
            "entries that it stores decides its shapes"
        )
    array, mask = np.asarray(jnp.asarray(array)), np.asarray(mask)
    if mask.dtype != np.bool_:
        raise ValueError(f"a mask is an array of booleans, got {mask.dtype}")
    try:
        mask = np.broadcast_to(mask, array.shape)
    except ValueError as error:
        raise ValueError(
            f"a mask of shape {mask.shape} does not fit an array of shape {array.shape}"
        ) from error
    return np.where(mask, array, np.zeros((), array.dtype)), mask


def smallest_uint(largest: int) -> Any:
    """Returns the smallest unsigned type that holds all whole numbers up to this one.

    Raises:
      ValueError: if 32 bits do not.

    >>> [smallest_uint(n).__name__ for n in (0, 255, 256, 2**16)]
    ['uint8', 'uint8', 'uint16', 'uint32']
    """
    for dtype in (np.uint8, np.uint16, np.uint32):
        if largest <= np.iinfo(dtype).max:
            return dtype
    raise ValueError(f"an index of {largest} needs more than 32 bits")


def index(numbers: np.ndarray, largest: int) -> jax.Array:
    """Returns whole numbers up to `largest` as an array of the smallest type that holds them all.

    >>> index(np.array([1, 2]), 300).dtype.name
    'uint16'
    """
    return jnp.asarray(numbers.astype(smallest_uint(largest)))


@jax.jit
def scatter(stored: Format) -> jax.Array:
    """Returns the dense parameter of any format. Stored entries outside the view are padding.

    Args:
      stored: The format; its arrays may be traced.

    >>> from sparsejax.formats import COO
    >>> scatter(COO.from_dense(jnp.array([1.0, 2.0]), np.array([False, True]))).tolist()
    [0.0, 2.0]
    """
    rows, columns = stored.coordinates()
    dense = jnp.zeros(view(stored.shape), stored.values.dtype)
    return dense.at[rows, columns].set(stored.values.ravel(), mode="drop").reshape(stored.shape)


def expand_pointers(pointers: jax.Array, entries: int) -> jax.Array:
    """Returns the row of each entry of a matrix in compressed rows.

    Args:
      pointers: Where each row starts, and behind the last one where it ends.
      entries: The number of entries, a Python number.

    >>> expand_pointers(jnp.array([0, 2, 2, 3]), 3).tolist()
    [0, 0, 2]
    """
    rows = jnp.arange(len(pointers) - 1, dtype=jnp.int32)
    lengths = jnp.diff(pointers.astype(jnp.int32))
    return jnp.repeat(rows, lengths, total_repeat_length=entries)


def nbytes(stored: Format) -> int:
    """Returns the bytes of all the arrays that make up a format.

    >>> from sparsejax.formats import COO
    >>> nbytes(COO.from_dense(jnp.array([1.0, 2.0]), np.array([False, True])))
    6
    """
    return sum(leaf.nbytes for leaf in jax.tree.leaves(stored))
