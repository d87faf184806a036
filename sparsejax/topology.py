"""From scores to masks: which entries of which layer survive."""

import fnmatch
import math
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax import distributions, redistributions, rounding, selection, structures
from sparsejax import masks as mask_trees
from sparsejax.scores import random as random_scores
from sparsejax.typing import (
    Count,
    Distribution,
    Layer,
    Leaf,
    Masks,
    Number,
    Params,
    Prunable,
    Redistribution,
    Structure,
)


def masks_from_scores(
    params: Params,
    scores: Params,
    sparsity: Number,
    *,
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    prunable: Prunable = mask_trees.default_prunable,
    first: Masks | None = None,
    near: Masks | None = None,
) -> Masks:
    """Returns the masks that keep the best scores at a given sparsity.

    The number of kept entries of each layer is exactly the one that the distribution gives, or the
    nearest that whole units of the structure allow.

    Args:
      params: Any pytree of arrays, or of their shapes and dtypes.
      scores: Real arrays of the same structure and shapes; the largest are kept.
      sparsity: The fraction of entries off the mask, from 0 to 1; may be traced.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`, asked about the leaves of `params`.
      first: Masks of entries that rank before all others, or None for no preference.
      near: Masks that are probably close to the answer, or None. They only save time.

    Returns:
      A mask tree.

    Raises:
      ValueError: if no leaf is prunable, the sparsity is no fraction, or the structure does not fit
        a leaf, whose path is named.

    >>> params = {"kernel": jnp.array([[1.0, 9.0], [-8.0, 2.0]]), "bias": jnp.zeros(2)}
    >>> masks = masks_from_scores(params, jax.tree.map(jnp.abs, params), 0.5)
    >>> masks["kernel"].tolist(), masks["bias"].tolist()
    ([[False, True], [True, False]], True)
    """
    structure = structures.unstructured() if structure is None else structure
    rounding.check_fraction("sparsity", sparsity)
    names = prunable_paths(params, structure, prunable)
    leaves, rows = [], []
    for name, score, ahead, close in zip(
        names,
        _pick(params, scores, names),
        _pick(params, first, names),
        _pick(params, near, names),
        strict=True,
    ):
        own = structure.at(name)
        grouped = own.group(score)
        leaves.append(Leaf(name, score.shape, own.expand(grouped, score.shape), ahead))
        flags = [None if x is None else own.group(x).astype(bool) for x in (ahead, close)]
        rows.append((grouped, flags))
    kept = distribution(leaves, 1 - sparsity)
    chosen = {}
    for leaf, (grouped, (ahead, close)), n in zip(leaves, rows, kept, strict=True):
        own = structure.at(leaf.path)
        axes = own.axes(grouped.ndim)
        k = _units_to_keep(own, leaf, n, math.prod(grouped.shape[a] for a in axes))
        best = selection.top_k_mask(grouped, k, axes=axes, first=ahead, near=close)
        chosen[leaf.path] = own.expand(best, leaf.shape)
    return jax.tree_util.tree_map_with_path(
        lambda path, _: chosen.get(mask_trees.path_name(path), jnp.array(True)), params
    )


def random_masks(
    params: Params,
    key: jax.Array,
    sparsity: Number,
    *,
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    prunable: Prunable = mask_trees.default_prunable,
) -> Masks:
    """Returns random masks of a given sparsity, all that the structure allows being as likely.

    Args:
      params: Any pytree of arrays.
      key: A key of `jax.random`.
      sparsity: The fraction of entries off the mask, from 0 to 1; may be traced.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A mask tree.

    Raises:
      ValueError: as `masks_from_scores` does.

    >>> masks = random_masks({"w": jnp.ones((4, 4))}, jax.random.key(0), 0.75)
    >>> int(masks["w"].sum())
    4
    """
    return masks_from_scores(
        params,
        random_scores(params, params, key),
        sparsity,
        distribution=distribution,
        structure=structure,
        prunable=prunable,
    )


def move_connections(
    masks: Masks,
    drop_scores: Params,
    grow_scores: Params,
    drop_fraction: Number,
    *,
    structure: Structure | None = None,
    redistribution: Redistribution | None = None,
) -> Masks:
    """Drops a fraction of the kept connections and grows as many: each row keeps its count.

    The kept entries with the lowest drop scores go. Then the entries off the mask, those just
    dropped among them, with the highest grow scores come.

    Args:
      masks: The mask tree; leaves that are scalars stay.
      drop_scores: A pytree of arrays with the shapes of the parameters.
      grow_scores: Likewise.
      drop_fraction: The fraction of the kept entries to move, from 0 to 1, rounded half to even for
        each row of the structure; may be traced.
      structure: The structure that the masks were made with; None for unstructured.
      redistribution: As for `grow_connections`.

    Returns:
      A mask tree with the shapes of `masks`.

    Raises:
      ValueError: if the fraction is a Python number outside [0, 1], or a redistribution meets a
        structure.

    >>> masks = {"w": jnp.array([[True, True], [False, False]])}
    >>> drop = {"w": jnp.array([[2.0, 1.0], [0.0, 0.0]])}
    >>> grow = {"w": jnp.array([[0.0, 0.0], [5.0, 7.0]])}
    >>> move_connections(masks, drop, grow, 0.5)["w"].tolist()
    [[True, False], [False, True]]
    """
    stays = drop_connections(masks, drop_scores, drop_fraction, structure=structure)
    return grow_connections(
        stays, grow_scores, masks, structure=structure, redistribution=redistribution
    )


def drop_connections(
    masks: Masks,
    scores: Params,
    fraction: Number,
    *,
    structure: Structure | None = None,
) -> Masks:
    """Drops the fraction of the kept entries of each row that has the lowest scores.

    Args:
      masks: The mask tree; leaves that are scalars stay.
      scores: A pytree of arrays with the shapes of the parameters.
      fraction: The fraction of the kept entries to drop, from 0 to 1, rounded half to even for each
        row of the structure; may be traced.
      structure: The structure that the masks were made with; None for unstructured.

    Returns:
      A mask tree with the shapes of `masks`.

    Raises:
      ValueError: if the fraction is a Python number outside [0, 1].

    >>> masks = {"w": jnp.array([True, True, False, True])}
    >>> drop_connections(masks, {"w": jnp.array([3.0, 1.0, 0.0, 2.0])}, 1 / 3)["w"].tolist()
    [True, False, False, True]
    """
    structure = structures.unstructured() if structure is None else structure
    rounding.check_fraction("drop_fraction", fraction)

    def drop(path: Any, mask: jax.Array, score: jax.Array) -> jax.Array:
        if not mask.ndim or not score.size:
            return mask
        own = structure.at(mask_trees.path_name(path))
        grouped = own.group(mask).astype(bool)
        axes = own.axes(grouped.ndim)
        kept = selection.count(grouped, axes)
        stay = kept - rounding.portion(kept, fraction)
        stays = selection.top_k_mask(own.group(score), stay, axes=axes, first=grouped)
        return own.expand(stays, score.shape)

    return jax.tree_util.tree_map_with_path(drop, masks, scores)


def grow_connections(
    stays: Masks,
    scores: Params,
    before: Masks,
    *,
    structure: Structure | None = None,
    redistribution: Redistribution | None = None,
) -> Masks:
    """Grows the entries off the masks that have the highest scores, up to the counts of before.

    Args:
      stays: The mask tree of what stays; leaves that are scalars stay as they are.
      scores: A pytree of arrays with the shapes of the parameters.
      before: Masks of `stays` and more. Each row grows as many entries as it has lost.
      structure: The structure that the masks were made with; None for unstructured.
      redistribution: How the growth is shared among the layers, in place of that: their total stays
        the same. It moves single entries from layer to layer, so there can be no structure then.

    Returns:
      A mask tree with the shapes of `stays`.

    Raises:
      ValueError: if a redistribution meets a structure.

    >>> stays = {"w": jnp.array([True, False, False])}
    >>> scores = {"w": jnp.array([9.0, 1.0, 2.0])}
    >>> grow_connections(stays, scores, {"w": jnp.array([True, True, False])})["w"].tolist()
    [True, False, True]
    """
    check_redistribution(redistribution, structure)
    structure = structures.unstructured() if structure is None else structure

    def lost(path: Any, stay: jax.Array, old: jax.Array) -> jax.Array:
        if not stay.ndim:
            return jnp.zeros((), jnp.uint32)
        own = structure.at(mask_trees.path_name(path))
        grouped = [own.group(m).astype(bool) for m in (old, stay)]
        kept = [selection.count(m, own.axes(m.ndim)) for m in grouped]
        return kept[0] - kept[1]

    def grow(path: Any, stay: jax.Array, score: jax.Array, number: jax.Array) -> jax.Array:
        if not stay.ndim or not score.size:
            return stay
        own = structure.at(mask_trees.path_name(path))
        grouped = own.group(stay).astype(bool)
        axes = own.axes(grouped.ndim)
        grown = selection.top_k_mask(own.group(score), number, axes=axes, first=~grouped)
        return own.expand(grouped | grown, score.shape)

    numbers = jax.tree_util.tree_map_with_path(lost, stays, before)
    if redistribution is not None:
        leaves, tree = jax.tree.flatten(stays)
        layers = [
            Layer(*layer)
            for layer in zip(*map(jax.tree.leaves, (before, stays, scores)), strict=True)
        ]
        moving = [i for i, stay in enumerate(leaves) if stay.ndim]
        flat = jax.tree.leaves(numbers)
        shares = redistributions.shares(
            [flat[i].reshape(()) for i in moving], [layers[i] for i in moving], redistribution
        )
        for i, share in zip(moving, shares, strict=True):
            flat[i] = share
        numbers = jax.tree.unflatten(tree, flat)
    return jax.tree_util.tree_map_with_path(grow, stays, scores, numbers)


def add_connections(
    masks: Masks,
    scores: Params,
    fraction: Number,
    *,
    structure: Structure | None = None,
) -> Masks:
    """Grows a fraction of the kept entries of each row on top of them, as far as there is room.

    Args:
      masks: The mask tree; leaves that are scalars stay.
      scores: A pytree of arrays with the shapes of the parameters; the highest come.
      fraction: From 0 to 1, of what is kept, rounded half to even for each row of the structure;
        may be traced.
      structure: The structure that the masks were made with; None for unstructured.

    Returns:
      A mask tree with the shapes of `masks`.

    >>> masks = {"w": jnp.array([True, True, False, False])}
    >>> add_connections(masks, {"w": jnp.array([0.0, 0.0, 1.0, 2.0])}, 0.5)["w"].tolist()
    [True, True, False, True]
    """
    structure = structures.unstructured() if structure is None else structure
    rounding.check_fraction("fraction", fraction)

    def add(path: Any, mask: jax.Array, score: jax.Array) -> jax.Array:
        if not mask.ndim or not score.size:
            return mask
        own = structure.at(mask_trees.path_name(path))
        grouped = own.group(mask).astype(bool)
        axes = own.axes(grouped.ndim)
        number = rounding.portion(selection.count(grouped, axes), fraction)
        grown = selection.top_k_mask(own.group(score), number, axes=axes, first=~grouped)
        return own.expand(grouped | grown, score.shape)

    return jax.tree_util.tree_map_with_path(add, masks, scores)


def check_redistribution(
    redistribution: Redistribution | None, structure: Structure | None
) -> None:
    """Refuses a redistribution of what is no single entry.

    Raises:
      ValueError: if there are a redistribution and a structure.
    """
    if redistribution is not None and structure is not None and structure.name != "unstructured":
        raise ValueError(
            "a redistribution moves single connections from layer to layer, which "
            f"{structure.name} does not allow"
        )


def check_sparsity(
    params: Params,
    sparsity: Number,
    distribution: Distribution,
    structure: Structure | None,
    prunable: Prunable,
) -> None:
    """Refuses what cannot be: no prunable leaf, a misfit, a sparsity out of reach. Computes
    nothing.

    Raises:
      ValueError: as `masks_from_scores` does.
    """
    jax.eval_shape(
        lambda p: masks_from_scores(
            p, p, sparsity, distribution=distribution, structure=structure, prunable=prunable
        ),
        params,
    )


def prunable_paths(params: Params, structure: Structure, prunable: Prunable) -> list[str]:
    """Returns the paths of the prunable leaves, all of which the structure fits.

    Raises:
      ValueError: if there are none, the structure does not fit one, or one of its path patterns
        matches none.

    >>> prunable_paths({"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, structures.unstructured(),
    ...                mask_trees.default_prunable)
    ['w']
    """
    paths = []
    named = [(mask_trees.path_name(p), x) for p, x in jax.tree_util.tree_leaves_with_path(params)]
    for name, leaf in named:
        if prunable(name, leaf):
            try:
                structure.at(name).check(leaf.shape)
            except ValueError as error:
                raise ValueError(f"the structure does not fit {name!r}: {error}") from error
            paths.append(name)
    if not paths:
        raise ValueError(
            "no parameter is prunable; the tree has: "
            + (", ".join(f"{name} {leaf.shape}" for name, leaf in named) or "no leaves")
        )
    for pattern in structure.patterns:
        if not any(fnmatch.fnmatchcase(path, pattern) for path in paths):
            raise ValueError(
                f"the structure's pattern {pattern!r} matches no prunable parameter; there are: "
                + ", ".join(paths)
            )
    return paths


def _pick(params: Params, tree: Any, names: list[str]) -> list[Any]:
    """The leaves of `tree` that belong to the named parameters; Nones if there is no tree."""
    if tree is None:
        return [None] * len(names)
    paths = [mask_trees.path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    by_path = dict(zip(paths, jax.tree.leaves(mask_trees.spread(tree, params)), strict=True))
    return [by_path[name] for name in names]


def _units_to_keep(structure: Structure, leaf: Leaf, kept: Count, units: int) -> Count:
    """How many units of each row make up so many entries of a leaf."""
    if not math.prod(leaf.shape):
        return 0
    k = rounding.rescale(kept, units, math.prod(leaf.shape))
    if isinstance(k, int) and k < structure.least:
        raise ValueError(
            f"{structure.name} keeps at least {structure.least} of {units} entries, a sparsity of "
            f"{1 - structure.least / units:.4g}, but {leaf.path!r} was to keep {kept} of "
            f"{math.prod(leaf.shape)}"
        )
    return jnp.maximum(k, structure.least) if structure.least else k
