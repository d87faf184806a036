"""Taylor pruning: the running mean of |w · g| decides, and as many weights go every time."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from tests.algorithms.loop import largest, problem, train


def test_it_is_the_paper_s_criterion_averaged():
    weights, targets = problem(9)
    rule = sparsejax.taylor(0.75, begin=1, end=7, period=2, decay=0.8)
    tx = sparsejax.sparsify(optax.sgd(0.3), rule)
    w, mask_expected, mean, kept = weights, np.ones_like(weights, bool), 0.0, []
    for t, ((stored, _, mask), _) in enumerate(train(tx, weights, targets)):
        gradient = w - targets[t]
        mean = 0.8 * mean + 0.2 * np.abs(w * gradient)
        if t in (1, 3, 5, 7):
            count = round(48 * (1 - 0.75 * (t - 1) / 6))
            mask_expected = largest(np.where(mask_expected, mean, -1), count)
            w = w * mask_expected
            kept.append(count)
        w = w - 0.3 * mask_expected * gradient
        np.testing.assert_array_equal(mask, mask_expected)
        np.testing.assert_allclose(stored, w, rtol=1e-5, atol=1e-6)
    assert kept == [48, 36, 24, 12]
    assert (mask_expected != largest(np.abs(weights), 12)).any()


def test_channels_go_by_their_mean_and_a_nan_off_the_mask_is_not_remembered():
    rule = sparsejax.taylor(0.5, begin=0, end=1, structure=sparsejax.channel())
    params = {"w": jnp.array([[1.0, 2.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]])}
    grads = {"w": jnp.array([[2.0, 1.0, jnp.nan, 1.5], [2.0, 1.0, jnp.nan, 1.5]])}
    state = rule.init(params)
    for _ in range(2):
        _, state = rule.update(grads, state, params)
    assert sparsejax.get_masks(state)["w"].tolist() == [[True, False, False, True]]
    assert np.isfinite(sparsejax.masks.find_in_state(state, "ema")[0]["w"]).all()


def test_a_decay_that_is_no_fraction_is_refused():
    with pytest.raises(ValueError, match="decay must lie between"):
        sparsejax.taylor(0.5, begin=0, end=1, decay=1.5)
