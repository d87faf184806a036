"""Units as a whole: their scores, their masks, and the rule that prunes them."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax import distributions, rounding, schedules, scores, selection
from sparsejax.coupling.groups import Group, Member
from sparsejax.masks import path_name
from sparsejax.transforms import mask_rule
from sparsejax.typing import Amount, Distribution, Leaf, Masks, Number, Params, Score, When


def unit_scores(
    groups: Sequence[Group], tree: Params, aggregate: Literal["mean", "sum"] = "mean"
) -> list[jax.Array]:
    """Returns one score for each unit of each group, made of the scores of its entries.

    With `scores.magnitude` the mean is the mean |w| over all slices of the unit; with squares as
    scores the sum is the squared norm of the whole unit, as in Fang et al. 2023, arXiv 2301.12900.

    Args:
      groups: The groups of a `Coupling`.
      tree: Scores of the parameters, of their structure and shapes.
      aggregate: Whether a unit counts its entries' mean, so that units of different groups can be
        compared, or their sum.

    Returns:
      For each group a float array of the shape (units,).

    Raises:
      ValueError: if the tree lacks a member's path, or another `aggregate` is asked for.

    >>> from sparsejax.coupling.groups import Member
    >>> group = Group(2, (Member("w", 1, ((0,), (1, )), "producer"),), 0.0)
    >>> unit_scores([group], {"w": jnp.array([[1.0, 4.0], [3.0, 0.0]])})[0].tolist()
    [2.0, 2.0]
    """
    if aggregate not in ("mean", "sum"):
        raise ValueError(f"aggregate must be 'mean' or 'sum', got {aggregate!r}")
    by_path = _by_path(tree)
    result = []
    for group in groups:
        total, entries = jnp.zeros(group.units, jnp.float32), 0
        for member in _masked(group):
            x = _leaf(by_path, member)
            wide = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
            others = tuple(a for a in range(x.ndim) if a != member.axis)
            indices = np.array(member.indices)
            total = total + wide.sum(others)[indices].sum(1)
            entries += x.size // x.shape[member.axis] * indices.shape[1]
        result.append(total / entries if aggregate == "mean" else total)
    return result


def unit_masks(groups: Sequence[Group], kept: Sequence[jax.Array], params: Params) -> Masks:
    """Returns the masks of all slices of the units that are kept.

    Args:
      groups: The groups of a `Coupling`.
      kept: For each group a bool array of the shape (units,).
      params: The parameters, or their shapes.

    Returns:
      A mask tree: where a parameter belongs to units along some of its axes, a mask of these axes,
      which broadcasts to it; else a scalar True.

    Raises:
      ValueError: if the parameters lack a member's path.

    >>> from sparsejax.coupling.groups import Member
    >>> group = Group(2, (Member("w", 1, ((0,), (1, )), "producer"),), 0.0)
    >>> unit_masks([group], [jnp.array([True, False])], {"w": jnp.ones((5, 2))})["w"].tolist()
    [[True, False]]
    """
    by_path = _by_path(params)
    found: dict[str, jax.Array] = {}
    for group, keep in zip(groups, kept, strict=True):
        for member in _masked(group):
            shape = _leaf(by_path, member).shape
            owner = np.full(shape[member.axis], -1)
            for unit, positions in enumerate(member.indices):
                owner[list(positions)] = unit
            mask = jnp.where(owner < 0, True, jnp.asarray(keep)[owner])
            wide = [-1 if a == member.axis else 1 for a in range(len(shape))]
            found[member.path] = found.get(member.path, jnp.array(True)) & mask.reshape(wide)
    return jax.tree_util.tree_map_with_path(
        lambda path, _: found.get(path_name(path), jnp.array(True)), params
    )


def prune_units(
    groups: Sequence[Group],
    sparsity: Amount,
    *,
    score: Score = scores.magnitude,
    aggregate: Literal["mean", "sum"] = "mean",
    when: When | None = None,
    distribution: Distribution = distributions.uniform,
    seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
    """A mask rule that removes whole units, with all slices that hang together.

    A unit stays pruned for as long as the sparsity does not fall, and one unit of each group stays
    in any case.

    Args:
      groups: The groups of a `Coupling` to prune. Those that feed something else than 0 when they
        are dead are refused, since their consumers' biases would have to change.
      sparsity: The fraction of units to remove, from 0 to 1, a number or a schedule; may be traced.
      score: `(params, grads, key) -> scores` of the entries.
      aggregate: How the entries' scores make a unit's, as in `unit_scores`.
      when: At which steps the masks are computed; None for every step.
      distribution: Shares the budget of units among the groups: by `uniform` units compete within
        their group, by `global_` all with all.
      seed: Seed of random scores; may be traced.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: if the sparsity is no fraction, or there are no groups; for a group that feeds
        something when dead; by `init`, if the parameters lack a member's path.

    >>> import sparsejax
    >>> params = {"a": jnp.array([[1.0, 4.0, 2.0]]), "b": jnp.array([[1.0], [4.0], [2.0]])}
    >>> apply = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
    >>> groups = sparsejax.coupled_groups(apply, params, jnp.ones((1, 1))).groups
    >>> rule = prune_units(groups, 2 / 3)
    >>> _, state = rule.update(params, rule.init(params), params)
    >>> sparsejax.get_masks(state)["a"].tolist(), sparsejax.get_masks(state)["b"].ravel().tolist()
    ([[False, True, False]], [False, True, False])
    """
    rounding.check_fraction("sparsity", sparsity)
    if not groups:
        raise ValueError("there are no groups of units to prune")
    for group in groups:
        if group.feeds != 0:
            fed = "something unknown" if group.feeds is None else f"{group.feeds:.4g}"
            raise ValueError(
                f"the units of {group.name!r} feed {fed} to the next layers when they are dead, so "
                "that pruning them would need other biases there; leave this group out"
            )

    def init_masks(params: Params, key: jax.Array) -> Masks:
        del key
        return unit_masks(groups, [jnp.ones(group.units, bool) for group in groups], params)

    def move_masks(
        old: Masks, params: Params, updates: Params, key: jax.Array, step: jax.Array
    ) -> Masks:
        values = unit_scores(groups, score(params, updates, key), aggregate)
        alive = _alive(groups, old)
        amount = schedules.value_at(sparsity, step)
        return unit_masks(groups, _select(groups, values, alive, amount, distribution), params)

    return mask_rule(init_masks, move_masks, when or schedules.every(1), seed)


def _select(
    groups: Sequence[Group],
    values: Sequence[jax.Array],
    alive: Sequence[jax.Array],
    sparsity: Number,
    distribution: Distribution,
) -> list[jax.Array]:
    """The units to keep: the best of each group, then those alive, then the dead, by score."""
    leaves, ranked = [], []
    for group, value, live in zip(groups, values, alive, strict=True):
        best = selection.top_k_mask(value, 1, first=live)
        ranked.append((jnp.where(live, value, -jnp.inf), best))
        leaves.append(Leaf(group.name, (group.units,), *ranked[-1]))
    counts = distribution(leaves, 1 - sparsity)
    return [
        selection.top_k_mask(value, jnp.maximum(jnp.asarray(n, jnp.uint32), 1), first=best)
        for (value, best), n in zip(ranked, counts, strict=True)
    ]


def _alive(groups: Sequence[Group], old: Masks) -> list[jax.Array]:
    """Which units are on the masks, read where a unit's own slices lie."""
    by_path = _by_path(old)
    alive = []
    for group in groups:
        member = _masked(group)[0]
        mask = _leaf(by_path, member)
        others = tuple(a for a in range(mask.ndim) if a != member.axis)
        first = np.array([positions[0] for positions in member.indices])
        alive.append(mask.any(others)[first])
    return alive


def _masked(group: Group) -> list[Member]:
    return [member for member in group.members if member.role != "state"]


def _by_path(tree: Any) -> dict[str, Any]:
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def _leaf(by_path: dict[str, Any], member: Member) -> Any:
    if member.path not in by_path:
        raise ValueError(
            f"the group has slices of {member.path!r}, and the parameters are: "
            + ", ".join(by_path)
        )
    return by_path[member.path]
