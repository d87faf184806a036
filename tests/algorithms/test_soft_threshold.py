"""Soft thresholding: the proximal steps, their exact zeros, and the problem that they solve."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from tests.algorithms.loop import problem, train


def test_it_is_iterative_shrinkage():
    weights, targets = problem(8)
    rate = optax.linear_schedule(0.4, 0.2, 8)
    tx = optax.chain(optax.sgd(rate), sparsejax.soft_threshold(0.5, learning_rate=rate))
    w, came = weights, 0
    for t, ((stored, forward, mask), _) in enumerate(train(tx, weights, targets)):
        before, eta = w != 0, 0.4 - 0.2 * t / 8
        w = w - eta * (w - targets[t])
        w = np.sign(w) * np.maximum(np.abs(w) - eta * 0.5, 0)
        came += ((w != 0) & ~before).sum()
        np.testing.assert_array_equal(stored != 0, w != 0)
        np.testing.assert_array_equal(mask, w != 0)
        np.testing.assert_array_equal(stored, forward)
        np.testing.assert_allclose(stored, w, rtol=1e-4, atol=1e-6)
    assert came
    assert 0 < mask.sum() < 48


def test_it_solves_the_group_lasso():
    """min ½ |w - t|² + λ √n Σ |w_G| has the solution t (1 - λ √n / |t_G|)₊ for every group."""
    _, targets = problem(1)
    rule = sparsejax.soft_threshold(0.8, learning_rate=0.5, structure=sparsejax.channel())
    tx = optax.chain(optax.sgd(0.5), rule)
    *_, ((stored, _, mask), _) = train(tx, np.ones((6, 8)), np.repeat(targets, 60, 0))
    expected, alive = np.zeros((6, 8)), np.zeros(8, bool)
    for channel in range(8):
        t = targets[0][:, channel]
        shrink = 1 - 0.8 * np.sqrt(6) / np.linalg.norm(t)
        alive[channel] = shrink > 0
        expected[:, channel] = max(shrink, 0) * t
    assert 0 < alive.sum() < 8
    np.testing.assert_array_equal(mask, alive[None])
    np.testing.assert_allclose(stored, expected, rtol=1e-4, atol=1e-5)
    assert not stored[:, ~alive].any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_tiny_weights_are_not_lost_to_underflow(dtype):
    """Their squares are 0 in float32, and they are not."""
    params = {"kernel": jnp.full((2, 2), 1e-30, dtype), "bias": jnp.full(2, 1e-30, dtype)}
    rule = sparsejax.soft_threshold(0.0, learning_rate=1.0, structure=sparsejax.channel())
    zeros = {"kernel": jnp.zeros((2, 2), dtype), "bias": jnp.zeros(2, dtype)}
    updates, state = rule.update(zeros, rule.init(params), params)
    assert bool(sparsejax.get_masks(state)["kernel"].all())
    assert not updates["kernel"].any() and not updates["bias"].any()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="coefficient must not be negative, got -1"):
        sparsejax.soft_threshold(-1, learning_rate=0.1)
    rule = sparsejax.soft_threshold(0.1, learning_rate=0.1)
    params = {"w": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match="needs the parameters"):
        rule.update(params, rule.init(params))
    with pytest.raises(ValueError, match="no parameter is prunable"):
        rule.init({"bias": jnp.ones(2)})
    rule = sparsejax.soft_threshold(0.1, learning_rate=0.1, structure=sparsejax.nm(1, 2))
    with pytest.raises(ValueError, match=r"1:2 says .* makes no groups"):
        rule.init(params)
