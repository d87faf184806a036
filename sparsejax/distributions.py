"""Distributions: how one budget is shared among the layers.

A distribution is a function `(leaves, density) -> how many entries each leaf keeps`. It gives whole
numbers and not densities, since only so the total is exactly the one asked for, at any size and for
a traced density as well. Options are bound with `functools.partial`.
"""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax import rounding, selection
from sparsejax.typing import Count, Distribution, Leaf, Number


def uniform(leaves: Sequence[Leaf], density: Number, *, dense: Sequence[str] = ()) -> list[Count]:
    """Gives every layer the same density.

    Args:
      leaves: The prunable leaves.
      density: The fraction to keep, from 0 to 1.
      dense: Path patterns (as in `fnmatch`) of layers to leave dense, outside of the budget.

    Returns:
      The number of entries that each leaf keeps, each rounded half to even.

    Raises:
      ValueError: if a pattern matches no leaf.

    >>> uniform([Leaf("a/w", (4, 5)), Leaf("b/w", (10, 3))], 0.1)
    [2, 3]
    >>> uniform([Leaf("a/w", (4, 5)), Leaf("b/w", (10, 3))], 0.1, dense=["a/*"])
    [20, 3]
    """
    return custom(leaves, density, sparsities=dict.fromkeys(dense, 0.0))


def er(
    leaves: Sequence[Leaf], density: Number, *, input_axis: int = -2, output_axis: int = -1
) -> list[Count]:
    """Erdős-Rényi: the density of a layer goes with (n_in + n_out) / (n_in n_out).

    Layers that would be more than dense are dense, and the others share the rest. The total is
    exactly density × all entries, rounded half to even. Mocanu et al. 2018, arXiv 1707.04780.

    Args:
      leaves: The prunable leaves, of two and more dimensions.
      density: The fraction of all entries to keep, from 0 to 1.
      input_axis: The axis of the inputs.
      output_axis: The axis of the outputs.

    Returns:
      The number of entries that each leaf keeps.

    >>> er([Leaf("a", (100, 100)), Leaf("b", (100, 10))], 0.1)
    [710, 390]
    """
    weights = []
    for leaf in leaves:
        n_in, n_out = leaf.shape[input_axis], leaf.shape[output_axis]
        window = math.prod(leaf.shape) // max(n_in * n_out, 1)
        weights.append(window * (n_in + n_out))
    return _share_out(leaves, density, weights)


def erk(leaves: Sequence[Leaf], density: Number) -> list[Count]:
    """Erdős-Rényi-Kernel: the density of a layer goes with sum(shape) / prod(shape).

    Layers that would be more than dense are dense, and the others share the rest. The total is
    exactly density × all entries, rounded half to even. Evci et al. 2020, arXiv 1911.11134.

    Args:
      leaves: The prunable leaves.
      density: The fraction of all entries to keep, from 0 to 1.

    Returns:
      The number of entries that each leaf keeps.

    >>> erk([Leaf("conv", (3, 3, 16, 32)), Leaf("dense", (512, 10))], 0.1)
    [91, 882]
    """
    return _share_out(leaves, density, [sum(leaf.shape) for leaf in leaves])


def global_(leaves: Sequence[Leaf], density: Number) -> list[Count]:
    """Lets all layers compete: each keeps its share of one pooled selection.

    The total is exactly density × all entries, rounded half to even.

    Args:
      leaves: The prunable leaves with their scores; fewer than 2**32 entries in total.
      density: The fraction of all entries to keep, from 0 to 1.

    Returns:
      The number of entries that each leaf keeps.

    Raises:
      ValueError: if the leaves come without scores.

    >>> leaves = [Leaf("a", (2,), jnp.array([1.0, 4.0])), Leaf("b", (2,), jnp.array([3.0, 2.0]))]
    >>> [int(count) for count in global_(leaves, 0.75)]
    [1, 2]
    """
    total = rounding.portion(sum(math.prod(leaf.shape) for leaf in leaves), density)
    scores, first = [], []
    for leaf in leaves:
        if leaf.scores is None:
            raise ValueError(f"global_ ranks by scores, and {leaf.path!r} comes without them")
        scores.append(jnp.broadcast_to(leaf.scores, leaf.shape))
        first.append(None if leaf.first is None else jnp.broadcast_to(leaf.first, leaf.shape))
    return list(selection.pooled_counts(scores, total, first))


def custom(
    leaves: Sequence[Leaf],
    density: Number,
    *,
    sparsities: Mapping[str, Number],
    base: Distribution | None = None,
) -> list[Count]:
    """Gives named layers their own sparsities, and shares out the others by another distribution.

    Args:
      leaves: The prunable leaves.
      density: The fraction to keep of the layers that no pattern names.
      sparsities: By path pattern (as in `fnmatch`, the first that matches counts) the sparsity of
        the layers that it names.
      base: The distribution among the other layers; None for uniform.

    Returns:
      The number of entries that each leaf keeps.

    Raises:
      ValueError: if a pattern matches no leaf, or a sparsity is no fraction.

    >>> leaves = [Leaf("a/w", (4, 5)), Leaf("b/w", (10, 10)), Leaf("c/w", (10, 10))]
    >>> custom(leaves, 0.1, sparsities={"a/*": 0.5}, base=erk)
    [10, 10, 10]
    """
    for pattern in sparsities:
        if not any(fnmatch.fnmatchcase(leaf.path, pattern) for leaf in leaves):
            raise ValueError(
                f"the pattern {pattern!r} matches no prunable leaf; there are: "
                + ", ".join(leaf.path for leaf in leaves)
            )
    named: list[Count | None] = []
    for leaf in leaves:
        size = math.prod(leaf.shape)
        own = [s for pattern, s in sparsities.items() if fnmatch.fnmatchcase(leaf.path, pattern)]
        if own:
            rounding.check_fraction(f"the sparsity of {leaf.path}", own[0])
        named.append(rounding.portion(size, 1 - own[0]) if own else None)
    others = [leaf for leaf, own in zip(leaves, named, strict=True) if own is None]
    shared = iter((base or _even)(others, density) if others else ())
    return [next(shared) if own is None else own for own in named]


def threshold(leaves: Sequence[Leaf], density: Number, *, value: Number) -> list[Count]:
    """Keeps the entries whose score exceeds a value, however many these are.

    Args:
      leaves: The prunable leaves with their scores.
      density: Not used.
      value: The threshold, in the unit of the scores.

    Returns:
      The number of entries that each leaf keeps.

    Raises:
      ValueError: if the leaves come without scores.

    >>> [int(n) for n in threshold([Leaf("a", (3,), jnp.array([1.0, 4.0, 2.0]))], 1.0, value=1.5)]
    [2]
    """
    del density
    kept: list[Count] = []
    for leaf in leaves:
        if leaf.scores is None:
            raise ValueError(f"a threshold needs scores, and {leaf.path!r} comes without them")
        above = leaf.scores > value
        if leaf.first is not None:
            above = above & leaf.first
        above = jnp.broadcast_to(above, leaf.shape)
        kept.append(selection.count(above, tuple(range(above.ndim))).reshape(()))
    return kept


def _even(leaves: Sequence[Leaf], density: Number) -> list[Count]:
    return [rounding.portion(math.prod(leaf.shape), density) for leaf in leaves]


def _share_out(leaves: Sequence[Leaf], density: Number, weights: Sequence[int]) -> list[Count]:
    """Shares exactly density × all entries in proportion to `weights`, at most each leaf's size.

    A layer is full once the budget reaches a bound that hangs on the shapes alone, so nothing has
    to be iterated. Among the others the fractions are rounded by largest remainder.
    """
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    total = rounding.portion(sum(sizes), density)
    bounds = []
    for size, weight in zip(sizes, weights, strict=True):
        # The budget at which `weight` × epsilon reaches `size`, the others capped likewise.
        at_full = (min(n * max(weight, 1), w * size) for n, w in zip(sizes, weights, strict=True))
        bounds.append(-(-sum(at_full) // max(weight, 1)))
    if isinstance(total, int):
        counts = by_largest_remainder(
            np.int64(total),
            np.array(sizes, np.int64),
            np.array(weights, np.int64),
            np.array([total >= bound for bound in bounds]),
        )
        return [int(n) for n in counts]
    full = total >= jnp.array(bounds, jnp.uint32)
    counts = by_largest_remainder(
        total, jnp.array(sizes, jnp.uint32), jnp.array(weights, jnp.uint32), full
    )
    return list(counts)


def by_largest_remainder(total: Any, sizes: Any, weights: Any, full: Any) -> Any:
    """Shares a whole number in proportion to weights, exactly, among those that are not full.

    Args:
      total: What is shared, at least the sizes of the full.
      sizes: What the full get.
      weights: Whole numbers; those of the others sum to 1 at least and to 2**31 at most.
      full: Bools.

    Returns:
      Whole numbers that sum to `total`; ties go to the first.

    >>> sizes, weights, full = np.array([[2, 9, 9], [5, 1, 2], [1, 0, 0]])
    >>> by_largest_remainder(np.int64(12), sizes, weights, full > 0).tolist()
    [2, 3, 7]
    """
    xp = jnp if isinstance(total, jax.Array) else np
    kind = sizes.dtype
    rest = total - xp.sum(xp.where(full, sizes, 0), dtype=kind)
    weights = xp.where(full, 0, weights)
    whole, remainder = rounding.mul_div(
        rest, weights, xp.maximum(xp.sum(weights, dtype=kind), 1).astype(kind)
    )
    left = rest - xp.sum(whole, dtype=kind)
    place = xp.arange(len(sizes))
    before = (remainder[None] > remainder[:, None]) | (
        (remainder[None] == remainder[:, None]) & (place[None] < place[:, None])
    )
    whole = whole + (xp.sum(before, axis=1) < left)
    return xp.where(full, sizes, whole)
