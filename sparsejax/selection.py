"""The exact k largest entries, found by counting: no sort, no gather.

The k-th largest value is found by interpolation and bisection on the bits of the scores, read as
whole numbers that sort as the scores do. A step counts the entries above a trial threshold, a
reduction, so the selection is as fast as memory is read and gives the same bits on sharded arrays
as on one device. Ties at the threshold go to the lowest (row-major) index, which the same search
finds.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.typing import Count

_SHORT_ROW = 16


def top_k_mask(
    scores: jax.Array,
    k: Count,
    *,
    axes: Sequence[int] | None = None,
    first: jax.Array | None = None,
    near: jax.Array | None = None,
) -> jax.Array:
    """Marks the k largest entries along `axes`, exactly k of them.

    NaN ranks below every number; -0 and 0 tie, and so do the three largest integers of 32 bits;
    ties go to the lowest row-major index.

    Args:
      scores: Real array of any shape and dtype, with fewer than 2**31 entries a row.
      k: How many to mark in each row: an int, or an array of whole numbers that broadcasts to
        `scores` reduced over `axes` with the dimensions kept. May be traced. More than a row has
        marks the whole row.
      axes: The axes that make up a row, to be ranked together; None for all of them.
      first: Bool array that broadcasts to `scores`: entries that rank before all others, whatever
        their scores.
      near: Bool array of the shape of `scores`: a mask that is probably close to the answer, such
        as that of scores before they changed a little. It only saves time.

    Returns:
      A bool array of the shape of `scores`.

    Raises:
      ValueError: if `k` is a negative int.

    >>> top_k_mask(jnp.array([3.0, 1.0, 2.0, 2.0]), 2).tolist()
    [True, False, True, False]
    >>> top_k_mask(jnp.array([[1, 5, 2], [9, 7, 8]]), 1, axes=(1,)).tolist()
    [[False, True, False], [True, False, False]]
    """
    if isinstance(k, int) and k < 0:
        raise ValueError(f"k must not be negative, got {k}")
    axes = tuple(range(scores.ndim)) if axes is None else tuple(a % scores.ndim for a in axes)
    if scores.size == 0:
        return jnp.zeros(scores.shape, bool)
    length = math.prod(scores.shape[a] for a in axes)
    # A narrow type must not wrap around at the length, nor a Python number at 32 bits.
    k = min(k, length) if isinstance(k, int) else jnp.maximum(k, 0)
    k = jnp.minimum(jnp.asarray(k, jnp.uint32), length)
    return _top_k_mask(scores, k, axes, first, near)


# Compiled as a whole: called outside of a program, a loop would be compiled anew each time.
@functools.partial(jax.jit, static_argnames="axes")
def _top_k_mask(
    scores: jax.Array,
    k: jax.Array,
    axes: tuple[int, ...],
    first: jax.Array | None,
    near: jax.Array | None,
) -> jax.Array:
    keys = sort_keys(scores)
    k = jnp.broadcast_to(k, [1 if a in axes else n for a, n in enumerate(scores.shape)])
    if first is None:
        return _top(keys, k, axes, near)
    first = jnp.broadcast_to(first, scores.shape)
    available = count(first, axes)
    # One search serves both cases: either it picks among the first, or all of them are in and it
    # picks among the others.
    among_first = k <= available
    keys = jnp.where(first == among_first, keys, 0)
    chosen = _top(keys, k - jnp.where(among_first, 0, available), axes, near)
    return chosen | (first & ~among_first)


def count(hits: jax.Array, axes: Sequence[int]) -> jax.Array:
    """Counts the true entries along `axes`; these stay as dimensions of size 1.

    Args:
      hits: Bool array with fewer than 2**32 entries a row.
      axes: The axes to count along, none of them negative.

    Returns:
      A uint32 array.

    >>> count(jnp.array([[True, False], [True, True]]), (1,)).tolist()
    [[1], [2]]
    """
    return _reduce(jnp.sum, hits, axes, jnp.int8, jnp.uint32)


def pooled_counts(
    scores: Sequence[jax.Array], k: Count, first: Sequence[jax.Array | None] | None = None
) -> list[jax.Array]:
    """Returns how many of the k largest entries of several arrays lie in each of them.

    Ties go to the lowest index, the arrays laid end to end.

    Args:
      scores: Real arrays, with fewer than 2**32 entries in total.
      k: How many are selected among all of them.
      first: For each array entries that rank before all others, or None for no preference.

    Returns:
      A uint32 array of shape () for each array; they sum to `k`, or to all entries if these are
      fewer.

    >>> [int(c) for c in pooled_counts([jnp.array([1.0, 4.0]), jnp.array([3.0, 2.0, 0.0])], 3)]
    [1, 2]
    """
    dtype = jnp.result_type(*scores)
    keys = [sort_keys(s.astype(dtype)) for s in scores]
    k = jnp.asarray(k, jnp.uint32)
    if first is None or all(f is None for f in first):
        return _pooled(keys, k)
    flags = [
        jnp.broadcast_to(True if f is None else f, s.shape)
        for f, s in zip(first, scores, strict=True)
    ]
    available = _totals(flags)
    total = _sum(available)
    among_first = k <= total
    keys = [jnp.where(f == among_first, x, 0) for f, x in zip(flags, keys, strict=True)]
    chosen = _pooled(keys, jnp.where(among_first, k, k - total))
    return [c + jnp.where(among_first, 0, a) for c, a in zip(chosen, available, strict=True)]


def sort_keys(scores: jax.Array) -> jax.Array:
    """Returns unsigned whole numbers that sort as the scores do.

    NaN becomes 1, below every number. 0 is left free for entries that cannot be chosen, and the
    largest key for a threshold that nothing reaches; so the three largest integers of 32 bits tie.

    Args:
      scores: Real array: floats, integers or bools.

    Returns:
      uint16 for 16-bit floats, uint64 for float64, else uint32; of the shape of `scores`.

    >>> sort_keys(jnp.array([-jnp.inf, -1.0, -0.0, 0.0, 2.0, jnp.nan])).argsort().tolist()
    [5, 0, 1, 2, 3, 4]
    """
    if jnp.issubdtype(scores.dtype, jnp.floating):
        if scores.dtype.itemsize == 1:
            scores = scores.astype(jnp.float32)
        bits_of = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[scores.dtype.itemsize]
        bits = jax.lax.bitcast_convert_type(scores, bits_of)
        sign = bits_of(1 << (8 * scores.dtype.itemsize - 1))
        bits = jnp.where(bits == sign, 0, bits)  # -0 is 0
        keys = jnp.where(bits >= sign, ~bits, bits | sign)
        return jnp.where(jnp.isnan(scores), bits_of(1), keys)
    if scores.dtype.itemsize > 4:
        raise ValueError(f"scores must be floats or integers of up to 32 bits, got {scores.dtype}")
    if scores.dtype != jnp.uint32:
        scores = scores.astype(jnp.int32)
        scores = jax.lax.bitcast_convert_type(scores, jnp.uint32) ^ jnp.uint32(1 << 31)
    return jnp.minimum(scores, jnp.uint32(2**32 - 3)) + 1


def _top(keys: jax.Array, k: jax.Array, axes: tuple[int, ...], near: jax.Array | None) -> jax.Array:
    """The mask of the k largest keys of each row; keys of 0 are never chosen."""
    long = [a for a in axes if keys.shape[a] > 1]
    if len(long) == 1 and keys.shape[long[0]] <= _SHORT_ROW:
        return (_rank(keys, long[0]) < k) & (keys > 0)
    available = count(keys > 0, axes)
    # From here on all numbers of a row lie on the devices on which the row does.
    k = jnp.minimum(k, available)
    one = jnp.ones_like(k, keys.dtype)
    bracket = _Bracket(one, available, ~(one - one), jnp.zeros_like(available))
    if near is not None:
        bracket = _narrow(bracket, keys, k, axes, near)
    bracket = _search(lambda t: count(keys >= t, axes), k, bracket)
    low, exact = bracket.low, bracket.at_low == k
    # Where the threshold falls between two values, all entries from `low` on are the answer.
    # Elsewhere `low` is the k-th largest value itself, and the first of the entries that share it
    # fill up.

    def fill_up() -> jax.Array:
        length = math.prod(keys.shape[a] for a in axes)
        order = jnp.where(keys == low, length - _index(keys.shape, axes), 0)
        tied = jnp.where(exact, bracket.at_low, bracket.at_low - bracket.at_high)
        wanted = jnp.where(exact, tied, k - bracket.at_high)
        one = jnp.ones_like(k)
        ties = _Bracket(one, tied, one * jnp.uint32(length + 1), jnp.zeros_like(k))
        last = _search(lambda t: count(order >= t, axes), wanted, ties).low
        return (keys > low) | (order >= last)

    chosen = jax.lax.cond(jnp.all(exact), lambda: keys >= low, fill_up)
    return chosen & (k > 0)


def _narrow(
    bracket: "_Bracket", keys: jax.Array, k: jax.Array, axes: tuple[int, ...], near: jax.Array
) -> "_Bracket":
    """A bracket from a mask of k entries: their smallest key, and the largest key of the others."""
    fits = count(near, axes) == k
    smallest = _reduce(jnp.min, jnp.where(near, keys, bracket.high), axes)
    largest = _reduce(jnp.max, jnp.where(near, 0, keys), axes)
    low = jnp.where(fits, smallest, bracket.low)
    high = jnp.where(fits, largest + 1, bracket.high)
    at_low, at_high = count(keys >= low, axes), count(keys >= high, axes)
    unchanged = at_high == k
    return _Bracket(
        jnp.where(unchanged, high, low), jnp.where(unchanged, at_high, at_low), high, at_high
    )


def _pooled(keys: list[jax.Array], k: jax.Array) -> list[jax.Array]:
    one = jnp.ones((), keys[0].dtype)
    available = _sum(_totals([x > 0 for x in keys]))
    k = jnp.minimum(k, available)
    bracket = _Bracket(one, available, ~(one - one), jnp.zeros_like(available))
    low = _search(lambda t: _sum(_totals([x >= t for x in keys])), k, bracket).low
    above = _totals([x > low for x in keys])
    left = k - _sum(above)
    shares = []
    for x, a in zip(keys, above, strict=True):
        tied = jnp.minimum(_totals([x == low])[0], left)
        left = left - tied
        shares.append(jnp.where(k > 0, a + tied, 0))
    return shares


def _totals(hits: Sequence[jax.Array]) -> list[jax.Array]:
    return [count(h, tuple(range(h.ndim))).reshape(()) for h in hits]


def _sum(numbers: Sequence[jax.Array]) -> jax.Array:
    return jnp.sum(jnp.stack(numbers), dtype=jnp.uint32)


class _Bracket(NamedTuple):
    """Two thresholds of each row, and the counts from them on: at least k, and at most k."""

    low: jax.Array
    at_low: jax.Array
    high: jax.Array
    at_high: jax.Array


def _search(
    count_from: Callable[[jax.Array], jax.Array], k: jax.Array, bracket: _Bracket
) -> _Bracket:
    """Searches for the largest threshold from which on there are still k entries, for each row.

    Ends where exactly k entries are found, or where the thresholds are neighbours; `at_high` is
    below k then.
    """

    def unfinished(carry: Any) -> jax.Array:
        (low, at_low, high, _), _ = carry
        return jnp.any((at_low != k) & (high - low > 1))

    def step(carry: Any) -> Any:
        (low, at_low, high, at_high), straight = carry
        width = high - low
        # Where the entries were spread evenly between the thresholds, the right one would be here.
        # Halving takes its turn whenever that did worse than halving would have.
        share = (at_low - k).astype(jnp.float32) / jnp.maximum(at_low - at_high, 1)
        guess = (share * width.astype(jnp.float32)).astype(width.dtype)
        guess = jnp.clip(guess, 1, jnp.maximum(width, 2) - 1)
        middle = low + jnp.where(straight, guess, width // 2)
        at_middle = count_from(middle)
        enough = at_middle >= k
        low, at_low = jnp.where(enough, middle, low), jnp.where(enough, at_middle, at_low)
        high, at_high = jnp.where(enough, high, middle), jnp.where(enough, at_high, at_middle)
        straight = ~straight | (high - low <= width // 2)
        return _Bracket(low, at_low, high, at_high), straight

    return jax.lax.while_loop(unfinished, step, (bracket, jnp.zeros_like(k, bool)))[0]


def _rank(keys: jax.Array, axis: int) -> jax.Array:
    """How many entries of its row rank before each entry, by comparing all pairs."""
    rows = jnp.moveaxis(keys, axis, -1)
    mine, other = rows[..., :, None], rows[..., None, :]
    place = jnp.arange(keys.shape[axis])
    earlier = place[None, :] < place[:, None]
    before = (other > mine) | ((other == mine) & earlier)
    return jnp.moveaxis(jnp.sum(before, axis=-1, dtype=jnp.uint32), -1, axis)


def _index(shape: Sequence[int], axes: Sequence[int]) -> jax.Array:
    """The row-major index of each entry in its row."""
    index, stride = jnp.zeros((), jnp.uint32), 1
    for axis in sorted(axes, reverse=True):
        iota = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        index, stride = index + iota * jnp.uint32(stride), stride * shape[axis]
    return index


def _reduce(
    reduce: Callable[..., jax.Array],
    x: jax.Array,
    axes: Sequence[int],
    part: Any = None,
    whole: Any = None,
) -> jax.Array:
    """A reduction along axes that are kept, in the dtypes of a part and of the whole for sums."""
    # XLA's CPU backend fuses and vectorizes a short reduction and makes several slow passes of a
    # long one, ten times slower in all; so a few neighbours come first, sums of them in bytes.
    axis, width = _first_stage(x.shape, axes)
    of_part, of_whole = ({} if t is None else {"dtype": t} for t in (part, whole))
    if width > 1:
        shape = list(x.shape)
        if width == shape[axis]:
            x = reduce(x, axis=axis, keepdims=True, **of_part)
        else:
            shape[axis : axis + 1] = [shape[axis] // width, width]
            x = reduce(x.reshape(shape), axis=axis + 1, **of_part)
    return reduce(x, axis=tuple(axes), keepdims=True, **of_whole)


def _first_stage(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, int]:
    """The axis to sum in part before the others, and how many neighbours to sum.

    Up to a factor of 8, as the axis has it, is left over, so that an axis laid out over several
    devices can be split without moving its entries.
    """
    best, width = 0, 1
    for axis in sorted(axes):  # the minor axis last: sums along it vectorize least
        n = shape[axis]
        if n <= _SHORT_ROW:
            divisor = n
        else:
            per_part = n // math.gcd(n, 8)
            divisor = max(d for d in range(1, _SHORT_ROW + 1) if per_part % d == 0)
        if divisor > width and width < _SHORT_ROW // 2:
            best, width = axis, divisor
    return best, width
