"""Redistributions: the total is exact, no layer overflows, and the shares are proportional."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparsejax
from sparsejax.redistributions import by_mean_score, by_survivors, share_out
from sparsejax.typing import Layer
from tests.algorithms import oracle

LAYERS = 5
SHARE_OUT = jax.jit(share_out)


@given(
    room=st.lists(st.integers(0, 10**6), min_size=LAYERS, max_size=LAYERS),
    weights=st.lists(st.integers(0, 10**4), min_size=LAYERS, max_size=LAYERS),
    part=st.floats(0, 1),
)
def test_shares_are_those_of_exact_fractions(room, weights, part):
    total = int(part * sum(room))
    result = SHARE_OUT(np.uint32(total), np.array(room, np.uint32), np.array(weights, np.float32))
    assert sum(result.tolist()) == total
    assert all(n <= most for n, most in zip(result.tolist(), room, strict=True))
    # Weights have 24 bits, so that a share may be off by a few of so many.
    expected = np.array(oracle.share_out(total, room, weights))
    np.testing.assert_allclose(np.asarray(result, np.int64), expected, atol=2 + total * 2.0**-21)


def test_shares_of_few_are_those_of_exact_fractions():
    rng = np.random.default_rng(0)
    for _ in range(100):
        room, weights = rng.integers(0, 40, LAYERS), rng.integers(0, 5, LAYERS)
        total = int(rng.integers(0, room.sum() + 1))
        result = SHARE_OUT(np.uint32(total), room.astype(np.uint32), weights.astype(np.float32))
        assert result.tolist() == oracle.share_out(total, room, weights)


@pytest.mark.parametrize("wrong", [np.nan, -1.0])
def test_what_is_no_weight_counts_as_0(wrong):
    room = np.array([9, 9, 9], np.uint32)
    weights = np.array([1.0, wrong, 3.0], np.float32)
    assert SHARE_OUT(np.uint32(8), room, weights).tolist() == [2, 0, 6]
    assert SHARE_OUT(np.uint32(20), room, weights).tolist() == [9, 2, 9]


def test_large_totals_are_exact():
    room = np.array([2**31 - 1, 5, 2**30], np.uint32)
    result = SHARE_OUT(np.uint32(2**31), room, np.array([1.0, 1e-9, 1.0], np.float32))
    assert sum(result.tolist()) == 2**31
    assert result.tolist()[1] <= 5


def test_weights_of_layers():
    rng = np.random.default_rng(1)
    before, stays = rng.random((2, 30, 7)) < [[[0.6]], [[0.4]]]
    scores = np.abs(rng.normal(size=(30, 7))).astype(np.float32)
    layers = [Layer(*map(jnp.asarray, (before, before & stays, scores)))]
    assert float(by_survivors(layers)[0]) == (before & stays).sum()
    np.testing.assert_allclose(by_mean_score(layers)[0], scores[before].mean(), rtol=1e-5)
    scores[np.argwhere(before)[0][0], np.argwhere(before)[0][1]] = np.nan
    layers = [Layer(*map(jnp.asarray, (before, before & stays, scores)))]
    expected = np.nansum(scores[before]) / before.sum()
    np.testing.assert_allclose(by_mean_score(layers)[0], expected, rtol=1e-5)
    nothing = [Layer(*[jnp.zeros((2, 2), bool)] * 2, jnp.ones((2, 2)))]
    assert float(by_mean_score(nothing)[0]) == 0


def test_any_rule_takes_one():
    """RigL's rule with sparse momentum's redistribution: the layer with large gradients grows."""
    rule = sparsejax.drop_and_grow(
        0.5,
        drop_fraction=0.5,
        when=sparsejax.every(1),
        redistribution=by_mean_score,
    )
    params = {"a": jnp.ones((6, 4)), "b": jnp.ones((6, 4)), "c": jnp.ones(3)}
    grads = {"a": jnp.ones((6, 4)), "b": 5 * jnp.ones((6, 4)), "c": jnp.ones(3)}
    _, state = oracle.quick_jit(rule.update)(grads, rule.init(params), params)
    counted = sparsejax.counts(params, sparsejax.get_masks(state))
    assert [c.kept for c in counted.values()] == [6 + 2, 6 + 10]


def test_a_structure_is_refused():
    with pytest.raises(ValueError, match="constant fan-in does not allow"):
        sparsejax.drop_and_grow(
            0.5,
            drop_fraction=0.5,
            when=sparsejax.every(1),
            structure=sparsejax.constant_fan_in(),
            redistribution=by_survivors,
        )
