"""Structures of diagonals: each stands or falls as a whole, alone or in bands of neighbours.

The diagonals of a matrix are wrapped around its longer axis, so that a matrix (m, n) has max(m, n)
of them, each with min(m, n) entries, and each entry lies on exactly one: entry (i, j) on that of
the offset (j - i) mod n if m <= n, else (i - j) mod m. The main diagonal has the offset 0.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from sparsejax.structures import block
from sparsejax.typing import Structure


def diagonal() -> Structure:
    """Whole wrapped diagonals stand or fall, ranked by their mean score.

    Tyagi et al. 2025 (DynaDiag), arXiv 2506.11449. The matrices are the last two axes; in a
    convolution the diagonals of all window positions compete. The number that is kept is density ×
    number of diagonals, rounded.

    Raises:
      ValueError: on use, if a parameter has fewer than two axes.

    >>> diagonal().group(jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])).tolist()
    [[3.0, 4.0, 3.5]]
    """
    return banded(1)._replace(name="diagonal")


def banded(width: int) -> Structure:
    """Bands of neighbouring wrapped diagonals stand or fall, ranked by their mean score.

    The bands hold the offsets 0 to width - 1, and so on; where the width does not divide the number
    of diagonals, the last band is smaller. The number of bands that are kept is density × number of
    bands, rounded. One fixed band around the diagonal needs no structure but a score: `nearness`
    of `sparsejax.scores`.

    Args:
      width: How many diagonals make a band.

    Raises:
      ValueError: if the width is below 1; on use, if a parameter has fewer than two axes.

    >>> import sparsejax
    >>> params = {"w": jnp.ones((4, 4)).at[0, 2].set(9.0)}
    >>> masks = sparsejax.masks_from_scores(params, params, 0.5, structure=banded(2))
    >>> masks["w"].astype(int).tolist()
    [[0, 0, 1, 1], [1, 0, 0, 1], [1, 1, 0, 0], [0, 1, 1, 0]]
    """
    if width < 1:
        raise ValueError(f"a band needs a width of at least 1 diagonal, got {width}")
    bands = block((width,))

    def check(shape: Sequence[int]) -> None:
        if len(shape) < 2:
            raise ValueError(f"diagonals need two axes, the shape is {tuple(shape)}")

    def group(x: jax.Array) -> jax.Array:
        x = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
        x = x if x.shape[-2] <= x.shape[-1] else x.swapaxes(-1, -2)
        # The mean of a band is the mean of its diagonals' means, all being of one length.
        return bands.group(_skew(x).mean(-2, keepdims=True))

    def expand(mask: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        *lead, m, n = shape
        low, high = sorted((m, n))
        row = bands.expand(mask, (*lead, 1, high))
        full = _unskew(jnp.broadcast_to(row, (*lead, low, high)))
        return full if m <= n else full.swapaxes(-1, -2)

    def axes(ndim: int) -> tuple[int, ...]:
        return tuple(range(ndim))

    return Structure(group, expand, axes, check, 0, f"bands of {width}")


def _skew(x: jax.Array) -> jax.Array:
    """Moves row i by i places to the left, around the end; for at most as many rows as columns."""
    # Rows laid end to end and cut anew one entry longer: no gather, which shards badly.
    return _recut(jnp.concatenate([x, x], -1), 0, 1)[..., : x.shape[-1]]


def _unskew(x: jax.Array) -> jax.Array:
    """Moves row i by i places to the right, around the end: the inverse."""
    n = x.shape[-1]
    return _recut(jnp.concatenate([x, x], -1), n, -1)[..., :n]


def _recut(x: jax.Array, start: int, more: int) -> jax.Array:
    """The rows laid end to end, from an entry on, and cut into rows that are longer by `more`."""
    *lead, m, n = x.shape
    flat = x.reshape(*lead, m * n)
    flat = jnp.concatenate([flat, jnp.zeros((*lead, m + start), x.dtype)], -1)
    size = m * (n + more)
    return flat[..., start : start + size].reshape(*lead, m, max(n + more, 0))
