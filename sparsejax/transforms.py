"""The two kinds of transformation that everything is made of: mask rules, and `sparsify`.

A *mask rule* is an optax gradient transformation that passes what it is given through unchanged and
keeps `masks` in its state. `sparsify(inner, rule)` trains any optax optimizer on the support of
those masks, so that after `optax.apply_updates` the pruned weights are exactly 0.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax import distributions, rounding, schedules, scores, structures, topology
from sparsejax import masks as mask_trees
from sparsejax.typing import (
    Amount,
    Distribution,
    Masks,
    Number,
    Params,
    Prunable,
    Redistribution,
    Score,
    Structure,
    When,
)


class MaskState(NamedTuple):
    """The state of a mask rule.

    Attributes:
      count: How many updates the rule has seen, an int32 scalar; the step of the next one.
      key: The key of `jax.random` that the rule's random choices hang on, with `count`.
      moved: Whether the last update computed the masks anew, a bool scalar.
      masks: The mask tree for the forward pass that comes next.
      stays: The entries of `masks` that were on the masks before they moved the last time, too.
      memory: What else the rule remembers from one update of the masks to the next.
    """

    count: jax.Array  # type: ignore[assignment]  # shadows tuple.count, as optax's states do
    key: jax.Array
    moved: jax.Array
    masks: Masks
    stays: Masks
    memory: Any = ()


class SparsifyState(NamedTuple):
    """The state of `sparsify`.

    Attributes:
      mask_state: The state of the mask rule.
      inner_state: The state of the optimizer.
    """

    mask_state: Any
    inner_state: Any


def mask_rule(
    init_masks: Callable[[Params, jax.Array], Masks],
    move_masks: Callable[..., Any],
    when: When,
    seed: int | jax.Array = 0,
    *,
    init_memory: Callable[[Params, Masks, jax.Array], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Makes a mask rule of two functions: the first masks, and how masks move.

    Args:
      init_masks: `(params, key) -> masks`.
      move_masks: `(masks, params, updates, key, step) -> masks`, called at the steps of `when`. The
        updates are what reaches the rule: the gradients, or what the transformations before it in a
        chain made of them. The key differs from step to step.
      when: `step -> bool`.
      seed: Seed of all random choices; may be traced.
      init_memory: `(params, masks, key) -> memory`, a pytree of arrays, for a rule that remembers
        more than its masks. `move_masks` is then given it as its last argument and returns `(masks,
        memory)`.

    Returns:
      A transformation that passes updates through unchanged.

    >>> keep_all = mask_rule(lambda params, key: mask_trees.dense_masks(params),
    ...                      lambda masks, params, updates, key, step: masks, schedules.every(10))
    >>> state = keep_all.init({"w": jnp.ones((2, 2))})
    >>> bool(mask_trees.get_masks(state)["w"].all())
    True
    """

    def init(params: Params) -> MaskState:
        key = jax.random.key(seed)
        masks = init_masks(params, jax.random.fold_in(key, 0))
        stays = jax.tree.map(jnp.copy, masks)
        memory = () if init_memory is None else init_memory(params, masks, jax.random.split(key)[0])
        return MaskState(jnp.zeros((), jnp.int32), key, jnp.zeros((), bool), masks, stays, memory)

    def update(
        updates: Params, state: MaskState, params: Params | None = None, **extra: Any
    ) -> tuple[Params, MaskState]:
        del extra
        if params is None:
            raise ValueError("a mask rule needs the parameters: call update(grads, state, params)")
        moved = jnp.asarray(when(state.count), bool)

        def move(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            _, old, _, memory = carry
            # Every step has a key of its own, used or not, so that masks are a function of the seed
            # and the step alone. 0 is the key of the first masks.
            key = jax.random.fold_in(state.key, state.count + 1)
            arguments = old, params, updates, key, state.count
            if init_memory is None:
                masks = move_masks(*arguments)
            else:
                masks, memory = move_masks(*arguments, memory)
            return jnp.zeros_like(moved), masks, jax.tree.map(jnp.logical_and, old, masks), memory

        # A loop of at most one turn leaves the masks in place, where lax.cond would copy them at
        # every step.
        _, *new = jax.lax.while_loop(
            lambda carry: carry[0], move, (moved, state.masks, state.stays, state.memory)
        )
        count = optax.safe_increment(state.count)
        return updates, MaskState(count, state.key, moved, *new)

    return optax.GradientTransformationExtraArgs(init, update)


def fixed(
    masks: Masks | Callable[[Params, jax.Array], Masks], *, seed: int | jax.Array = 0
) -> optax.GradientTransformationExtraArgs:
    """A mask rule whose masks never move.

    Args:
      masks: A mask tree, or a function `(params, key) -> masks` called once by `init`.
      seed: Seed of the key that the function is given; may be traced.

    >>> rule = fixed({"w": jnp.array([[True, False]]), "b": jnp.array(True)})
    >>> state = rule.init({"w": jnp.ones((1, 2)), "b": jnp.ones(2)})
    >>> mask_trees.get_masks(state)["w"].tolist()
    [[True, False]]
    """
    make = masks if callable(masks) else lambda params, key: jax.tree.map(jnp.asarray, masks)
    return mask_rule(make, lambda old, *_: old, lambda step: jnp.zeros(jnp.shape(step), bool), seed)


def prune(
    sparsity: Amount | Mapping[str, Amount],
    *,
    score: Score = scores.magnitude,
    when: When | None = None,
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    prunable: Prunable = mask_trees.default_prunable,
    seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
    """A mask rule that keeps the weights of the highest score, from dense masks on.

    A pruned weight stays pruned for as long as the sparsity does not fall.

    Args:
      sparsity: The fraction of each prunable weight, or of all, off the mask: from 0 to 1, a number
        or a schedule; may be traced. Or, by path pattern as in `custom`, the one of each layer;
        the layers that no pattern names stay dense.
      score: `(params, grads, key) -> scores`.
      when: At which steps the masks are computed; None for every step.
      distribution: Shares the budget among the layers; sparsities of each layer have none.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.
      seed: Seed of random scores; may be traced.

    Raises:
      ValueError: if the sparsity is no fraction; by `init`, if no leaf is prunable, a pattern
        matches none, the structure does not fit a leaf, or cannot be so sparse.

    >>> rule = prune(0.5, when=schedules.once(0))
    >>> params = {"w": jnp.array([[1.0, -3.0], [2.0, 0.5]])}
    >>> _, state = rule.update(params, rule.init(params), params)
    >>> mask_trees.get_masks(state)["w"].tolist()
    [[False, True], [True, False]]
    """
    rounding.check_fraction("sparsity", sparsity)
    structure = structures.unstructured() if structure is None else structure

    def budget(step: jax.Array) -> tuple[Number, Distribution]:
        if isinstance(sparsity, Mapping):
            own = {pattern: schedules.value_at(s, step) for pattern, s in sparsity.items()}
            return 0.0, functools.partial(distributions.custom, sparsities=own)
        return schedules.value_at(sparsity, step), distribution

    def init_masks(params: Params, key: jax.Array) -> Masks:
        del key
        if rounding.is_concrete(sparsity) or isinstance(sparsity, Mapping):
            amount, share_out = budget(jnp.zeros((), jnp.int32))
            topology.check_sparsity(params, amount, share_out, structure, prunable)
        return _dense_masks(params, structure, prunable)

    def move_masks(
        masks: Masks, params: Params, updates: Params, key: jax.Array, step: jax.Array
    ) -> Masks:
        amount, share_out = budget(step)
        return topology.masks_from_scores(
            params,
            score(params, updates, key),
            amount,
            distribution=share_out,
            structure=structure,
            prunable=prunable,
            first=masks,
        )

    return mask_rule(init_masks, move_masks, when or schedules.every(1), seed)


def drop_and_grow(
    sparsity: float | jax.Array,
    *,
    drop_fraction: Amount,
    when: When,
    drop_score: Score = scores.magnitude,
    grow_score: Score = scores.gradient,
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    redistribution: Redistribution | None = None,
    prunable: Prunable = mask_trees.default_prunable,
    seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
    """A mask rule that keeps the number of connections and moves them: dynamic sparse training.

    The first masks are random. At the steps of `when` each row of each layer loses the fraction of
    its connections with the lowest drop scores and gains as many with the highest grow scores.

    Args:
      sparsity: The fraction of weights off the mask, from 0 to 1; may be traced.
      drop_fraction: The fraction of the kept weights to move: a number or a schedule; may be
        traced.
      when: At which steps the masks move.
      drop_score: `(params, grads, key) -> scores`; the lowest go.
      grow_score: Likewise; the highest come.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      redistribution: Shares the growth among the layers, of which only the total then keeps its
        number of connections; None for each to keep its own.
      prunable: `(path, leaf) -> bool`.
      seed: Seed of the first masks and of random scores; may be traced.

    Raises:
      ValueError: if the sparsity or the drop fraction is no fraction, or a redistribution meets a
        structure; by `init`, if no leaf is prunable, the structure does not fit a leaf, or cannot
        be so sparse.

    >>> rule = drop_and_grow(0.5, drop_fraction=0.5, when=schedules.every(1))
    >>> params = {"w": jnp.ones((4, 4))}
    >>> _, state = rule.update(params, rule.init(params), params)
    >>> int(mask_trees.get_masks(state)["w"].sum())
    8
    """
    rounding.check_fraction("sparsity", sparsity)
    rounding.check_fraction("drop_fraction", drop_fraction)
    topology.check_redistribution(redistribution, structure)

    def init_masks(params: Params, key: jax.Array) -> Masks:
        return topology.random_masks(
            params,
            key,
            sparsity,
            distribution=distribution,
            structure=structure,
            prunable=prunable,
        )

    def move_masks(
        masks: Masks, params: Params, updates: Params, key: jax.Array, step: jax.Array
    ) -> Masks:
        drop_key, grow_key = jax.random.split(key)
        return topology.move_connections(
            masks,
            drop_score(params, updates, drop_key),
            grow_score(params, updates, grow_key),
            schedules.value_at(drop_fraction, step),
            structure=structure,
            redistribution=redistribution,
        )

    return mask_rule(init_masks, move_masks, when, seed)


def sparsify(
    inner: optax.GradientTransformation,
    rule: optax.GradientTransformation,
    *,
    replace_step: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Trains any optax optimizer on the support of a rule's masks.

    The rule sees the dense gradients. The optimizer sees what the rule passes on, the gradients
    themselves but for a rule that says otherwise (`deep_r`), and the parameters, both 0 off the
    mask. Its update of a pruned weight becomes `-p`: after `optax.apply_updates` that weight is
    exactly 0. A weight that comes onto the mask starts at 0, its optimizer slots as
    `inner.init` makes them. State that has no entry per weight (the row and column sums of factored
    second moments, step counters, global norms) is left as it is. A rule that has a field `shift`
    in its state moves the weights that stay by it, before the optimizer's step.

    Start with `params = apply_masks(params, get_masks(opt_state))`.

    Args:
      inner: Any optax transformation.
      rule: A mask rule.
      replace_step: Whether an update of the masks takes the place of the gradient step, as in
        RigL's Algorithm 1 (arXiv 1911.11134), or comes before it.

    Returns:
      A transformation that hands extra arguments on to `inner`.

    Raises:
      ValueError: by `init`, if optax cannot tell the optimizer's slots apart (`optax.lbfgs`).

    >>> import optax, sparsejax
    >>> params = {"w": jnp.arange(1.0, 5.0).reshape(2, 2)}
    >>> tx = sparsify(optax.sgd(0.25), sparsejax.magnitude_pruning(0.5))
    >>> state = tx.init(params)
    >>> updates, state = tx.update({"w": jnp.ones((2, 2))}, state, params)
    >>> optax.apply_updates(params, updates)["w"].tolist()
    [[0.0, 0.0], [2.75, 3.75]]
    """
    inner = optax.with_extra_args_support(inner)
    rule = optax.with_extra_args_support(rule)

    def masks_of(mask_state: Any, params: Params) -> Masks:
        # The rule may be wrapped in its turn, and know only some of the parameters.
        return mask_trees.spread(mask_trees.get_masks(mask_state), params)

    def init(params: Params) -> SparsifyState:
        mask_state = rule.init(params)
        masks = masks_of(mask_state, params)
        params = mask_trees.apply_masks(params, masks)
        inner_state = inner.init(params)
        slot_masks(inner, inner_state, params, masks)  # refuses what it cannot reset
        return SparsifyState(mask_state, inner_state)

    def update(
        updates: Params, state: SparsifyState, params: Params | None = None, **extra: Any
    ) -> tuple[Params, SparsifyState]:
        if params is None:
            raise ValueError("sparsify needs the parameters: call update(grads, state, params)")
        passed, mask_state = rule.update(updates, state.mask_state, params, **extra)
        masks = masks_of(mask_state, params)
        stays = mask_trees.spread(_stays(state.mask_state, mask_state), params)
        shifts = mask_trees.find_in_state(mask_state, "shift")
        shift = mask_trees.spread(mask_trees.put_together(shifts, 0.0), params, 0.0)
        # Regrown weights start at 0, so the parameters are cut to what was and stays on the mask.
        shifted = optax.apply_updates(params, shift) if shifts else params
        start = mask_trees.apply_masks(shifted, stays)
        inner_state = reset_slots(inner, state.inner_state, start, stays)

        on_mask = mask_trees.apply_masks(passed, masks)
        steps, stepped = inner.update(on_mask, inner_state, start, **extra)
        if replace_step:
            # A rule that does not say whether its masks moved is taken to move them every time.
            moves = mask_trees.find_in_state(mask_state, "moved") or [jnp.ones((), bool)]
            # Chosen entry by entry: lax.cond would copy all slots at every step.
            choose = functools.partial(jnp.where, jnp.stack(moves).any())
            stepped = jax.tree.map(choose, inner_state, stepped)
            steps = jax.tree.map(lambda u: choose(jnp.zeros_like(u), u), steps)
        inner_state = stepped
        if shifts:
            steps = jax.tree.map(lambda u, by: u + by.astype(u.dtype), steps, shift)

        def total(u: jax.Array, p: jax.Array, mask: jax.Array, stay: jax.Array) -> jax.Array:
            return jnp.where(stay, u, jnp.where(mask, u - p, -p))

        totals = jax.tree.map(total, steps, params, masks, stays)
        return totals, SparsifyState(mask_state, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _stays(before: Any, after: Any) -> Masks:
    """The entries that an update of a rule leaves on the masks."""
    masks, stays, moved = (
        mask_trees.find_in_state(after, field) for field in ("masks", "stays", "moved")
    )
    if len(masks) == len(stays):  # these rules say it themselves
        return mask_trees.put_together(
            [
                jax.tree.map(functools.partial(jnp.where, has_moved), stay, mask)
                for has_moved, stay, mask in zip(moved, stays, masks, strict=True)
            ]
        )
    return jax.tree.map(jnp.logical_and, mask_trees.get_masks(before), mask_trees.get_masks(after))


def reset_slots(
    inner: optax.GradientTransformation, state: Any, params: Params, stays: Masks
) -> Any:
    """Returns an optimizer's state with fresh slots for all weights but those that stay.

    Args:
      inner: The optimizer.
      state: Its state.
      params: The parameters that it trains.
      stays: A mask tree with exactly the structure of the parameters.

    Returns:
      The state. What has no entry per weight is left as it is.

    Raises:
      ValueError: if optax cannot tell the optimizer's slots apart.

    >>> import optax
    >>> params = {"w": jnp.ones(2)}
    >>> tx = optax.trace(0.9)
    >>> _, state = tx.update({"w": jnp.array([1.0, 2.0])}, tx.init(params))
    >>> reset_slots(tx, state, params, {"w": jnp.array([False, True])}).trace["w"].tolist()
    [0.0, 2.0]
    """
    return jax.tree.map(
        lambda stay, slot, fresh: slot if stay is True else jnp.where(stay, slot, fresh),
        slot_masks(inner, state, params, stays),
        state,
        inner.init(params),
    )


def slot_masks(
    inner: optax.GradientTransformation, state: Any, params: Params, masks: Masks
) -> Any:
    """For each leaf of the state the mask of its entries, or True where it has none per weight.

    Raises:
      ValueError: if optax cannot tell which of the state's leaves belong to the parameters.
    """
    by_path = dict(
        zip(
            (path for path, _ in jax.tree_util.tree_leaves_with_path(params)),
            zip(jax.tree.leaves(params), jax.tree.leaves(masks), strict=True),
            strict=True,
        )
    )

    def entry(path: tuple[Any, ...], slot: Any) -> Any:
        # An optimizer may keep several arrays for one parameter, in a tuple in its place.
        for end in range(len(path), -1, -1):
            if path[:end] in by_path:
                p, mask = by_path[path[:end]]
                per_weight = slot.shape[max(slot.ndim - p.ndim, 0) :] == p.shape
                return mask if per_weight and mask.ndim else True
        return True

    try:
        return optax.tree.map_params(
            inner,
            lambda slots: jax.tree_util.tree_map_with_path(entry, slots),
            state,
            transform_non_params=lambda _: True,
            is_leaf=lambda _: True,
        )
    except Exception as error:
        raise ValueError(
            "sparsify cannot tell which parts of this optimizer's state belong to which parameter: "
            f"optax.tree.map_params failed on it with {type(error).__name__}: {error}"
        ) from error


def _dense_masks(params: Params, structure: Structure, prunable: Prunable) -> Masks:
    """Masks that keep everything, in the shapes of the structure's masks."""
    topology.prunable_paths(params, structure, prunable)

    def mask(path: Any, m: jax.Array) -> jax.Array:
        own = structure.at(mask_trees.path_name(path))
        return own.expand(own.group(m).astype(bool), m.shape) if m.ndim else m

    return jax.tree_util.tree_map_with_path(mask, mask_trees.dense_masks(params, prunable))
