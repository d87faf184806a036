"""Whole units: their scores, masks and pruning, against loops over the members."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax import Group, Member

SIZES = (5, 8, 6, 3)


def params_of(seed=0):
    keys = jax.random.split(jax.random.key(seed), len(SIZES))
    return {
        f"layer_{i}": {
            "kernel": jax.random.normal(key, (n, m)),
            "bias": jax.random.normal(key, (m,)),
        }
        for i, (key, n, m) in enumerate(zip(keys, SIZES, SIZES[1:], strict=False))
    }


def apply(params, x):
    for i in range(len(SIZES) - 1):
        layer = params[f"layer_{i}"]
        x = x @ layer["kernel"] + layer["bias"]
        x = jax.nn.relu(x) if i < len(SIZES) - 2 else x
    return x


X = jax.random.normal(jax.random.key(9), (4, 5))
GROUPS = sparsejax.coupled_groups(apply, params_of(), X).groups


def entries(group, unit, tree):
    """All entries of a unit, by slicing."""
    found = []
    for member in group.members:
        x = tree
        for key in member.path.split("/"):
            x = x[key]
        found += (
            np.take(np.asarray(x, np.float64), member.indices[unit], member.axis).ravel().tolist()
        )
    return np.array(found)


def wanted_scores(tree):
    return [[np.abs(entries(g, u, tree)).mean() for u in range(g.units)] for g in GROUPS]


def units_left(masks):
    """For each group which units are on; all slices of a unit agree."""
    full = jax.tree.map(np.broadcast_to, masks, jax.tree.map(np.shape, params_of()),
                        is_leaf=lambda x: isinstance(x, jax.Array))  # fmt: skip
    alive = []
    for i, group in enumerate(GROUPS):
        kernel, bias = full[f"layer_{i}"]["kernel"], full[f"layer_{i}"]["bias"]
        rows = full[f"layer_{i + 1}"]["kernel"]
        on = bias
        np.testing.assert_array_equal(kernel.any(0), on)
        np.testing.assert_array_equal(rows.any(1), on)
        if i:
            before = full[f"layer_{i - 1}"]["bias"]
            np.testing.assert_array_equal(kernel, np.outer(before, on))
        assert len(on) == group.units
        alive.append(on)
    return alive


def test_scores_of_units_are_those_of_their_entries():
    tree = params_of()
    means, sums = jax.jit(
        lambda tree: (
            sparsejax.unit_scores(GROUPS, jax.tree.map(jnp.abs, tree)),
            sparsejax.unit_scores(GROUPS, jax.tree.map(jnp.square, tree), "sum"),
        )
    )(tree)
    for group, mean, total in zip(GROUPS, means, sums, strict=True):
        for unit in range(group.units):
            own = entries(group, unit, tree)
            np.testing.assert_allclose(np.asarray(mean)[unit], np.abs(own).mean(), rtol=1e-5)
            np.testing.assert_allclose(np.asarray(total)[unit], (own**2).sum(), rtol=1e-5)


def test_masks_of_units_with_several_positions():
    group = Group(2, (Member("w", 1, ((0, 3), (2, 1)), "producer"),), 0.0)
    heads = Group(2, (Member("w", 0, ((0,), (1,)), "consumer"),), 0.0)
    kept = [jnp.array([False, True]), jnp.array([True, False])]
    params = {"w": jnp.ones((3, 5, 2)), "b": jnp.ones(2)}
    masks = sparsejax.unit_masks([group, heads], kept, params)
    assert masks["b"].shape == ()
    np.testing.assert_array_equal(
        masks["w"][..., 0],
        np.outer([True, False, True], [False, True, True, False, True]),
    )


@functools.partial(jax.jit, static_argnames="distribution")
def pruned(params, masks, sparsity, distribution):
    rule = sparsejax.prune_units(GROUPS, sparsity, distribution=distribution)
    state = rule.init(params)
    state = state._replace(masks=masks)
    return rule.update(params, state, params)[1].masks


@pytest.mark.parametrize("distribution", [sparsejax.uniform, sparsejax.global_])
def test_the_best_units_stay_in_exact_number(distribution):
    params = params_of()
    scores = wanted_scores(params)
    masks = sparsejax.unit_masks(GROUPS, [jnp.ones(g.units, bool) for g in GROUPS], params)
    best = [int(np.argmax(own)) for own in scores]
    for sparsity in 0.0, 0.25, 0.5, 0.9, 1.0:
        after = units_left(pruned(params, masks, jnp.float32(sparsity), distribution))
        if distribution is sparsejax.uniform:
            counts = [max(1, round(g.units * (1 - sparsity))) for g in GROUPS]
            order = [np.argsort(-np.array(own))[:n] for own, n in zip(scores, counts, strict=True)]
        else:
            total = max(round(14 * (1 - sparsity)), len(GROUPS))
            ranked = sorted(
                ((g, u) for g, own in enumerate(scores) for u in range(len(own))),
                key=lambda at: (at[1] != best[at[0]], -scores[at[0]][at[1]]),
            )[:total]
            order = [[u for g, u in ranked if g == i] for i in range(len(GROUPS))]
        for on, wanted in zip(after, order, strict=True):
            assert set(np.flatnonzero(on)) == set(wanted)


@pytest.mark.parametrize("distribution", [sparsejax.uniform, sparsejax.global_])
def test_dead_units_stay_dead(distribution):
    params = params_of()
    alive = [jnp.arange(g.units) < 2 for g in GROUPS]
    masks = sparsejax.unit_masks(GROUPS, alive, params)
    after = units_left(pruned(params, masks, jnp.float32(0.75), distribution))
    assert all((on <= was).all() for on, was in zip(after, alive, strict=True))
    after = units_left(pruned(params, masks, jnp.float32(0.5), distribution))
    assert all((on >= was).all() for on, was in zip(after, alive, strict=True))
    assert sum(map(np.sum, after)) == 7


def test_training_on_what_is_left_is_training_the_smaller_network():
    schedule = optax.piecewise_constant_schedule(0.25, {1: 2.0})
    tx = sparsejax.sparsify(optax.adam(0.01), sparsejax.prune_units(GROUPS, schedule))
    params = params_of()
    state, traces = tx.init(params), []

    @jax.jit
    def step(params, state):
        traces.append(1)
        grads = jax.grad(lambda p: jnp.mean((apply(p, X) - 1) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for kept in (6, 4), (4, 3), (4, 3):
        params, state = step(params, state)
        masks = sparsejax.get_masks(state)
        alive = units_left(masks)
        assert [on.sum() for on in alive] == list(kept)
        for p, mask in zip(*map(jax.tree.leaves, (params, masks)), strict=True):
            assert not np.any(np.asarray(p)[~np.broadcast_to(mask, p.shape)])
    assert len(traces) == 1
    small = {}
    inputs = [np.ones(5, bool), *alive]
    for i, (rows, columns) in enumerate(zip(inputs, [*alive, np.ones(3, bool)], strict=True)):
        layer = params[f"layer_{i}"]
        small[f"layer_{i}"] = {
            "kernel": layer["kernel"][rows][:, columns],
            "bias": layer["bias"][columns],
        }
    np.testing.assert_allclose(*(apply(p, X) for p in (small, params)), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_pruned_is_refused():
    with pytest.raises(ValueError, match="there are no groups"):
        sparsejax.prune_units([], 0.5)
    with pytest.raises(ValueError, match="sparsity must lie between 0 and 1"):
        sparsejax.prune_units(GROUPS, 1.5)
    for feeds, words in (0.5, "feed 0.5 to"), (None, "feed something unknown to"):
        with pytest.raises(ValueError, match=f"'layer_0/bias' {words}"):
            sparsejax.prune_units([GROUPS[0]._replace(feeds=feeds)], 0.5)
    with pytest.raises(ValueError, match="slices of 'layer_0/bias', and the parameters are: w"):
        sparsejax.prune_units(GROUPS, 0.5).init({"w": jnp.ones(3)})
    with pytest.raises(ValueError, match="aggregate must be 'mean' or 'sum', got 'max'"):
        sparsejax.unit_scores(GROUPS, params_of(), "max")
