"""Movement pruning, hard and soft: the paper's scores."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from tests.algorithms.loop import largest, problem, train


def test_scores_are_the_sums_of_the_paper():
    weights, targets = problem(9)
    sparsity = optax.linear_schedule(0.0, 0.75, 6)
    tx = sparsejax.behind(optax.sgd(0.1), sparsejax.movement(sparsity))
    w, scores, mask_expected, back = weights, np.zeros_like(weights), np.ones_like(weights, bool), 0
    for t, ((stored, forward, mask), state) in enumerate(train(tx, weights, targets)):
        gradient = w * mask_expected - targets[t]
        scores = scores - w * gradient
        w = w - 0.1 * gradient * mask_expected
        before = mask_expected
        mask_expected = largest(scores, round(48 * (1 - 0.75 * min((t + 1) / 6, 1))))
        back += (mask_expected & ~before).sum()
        np.testing.assert_allclose(state.rule_state.scores["w"], scores, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(mask, mask_expected)
        np.testing.assert_allclose(stored, w, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(forward, w * mask_expected, rtol=1e-5, atol=1e-6)
    assert back, "no weight came back with its old value"


def test_weights_off_the_mask_wait_also_under_momentum():
    weights, targets = problem(6)
    tx = sparsejax.behind(optax.adam(0.1), sparsejax.movement(0.5))
    before, mask_before = weights, np.asarray(sparsejax.get_masks(tx.init({"w": weights}))["w"])
    for (stored, _, mask), _ in train(tx, weights, targets):
        np.testing.assert_array_equal(stored[~mask_before], before[~mask_before])
        assert (stored[mask_before] != before[mask_before]).all()
        before, mask_before = stored, mask


def test_soft_scores_descend_along_the_penalised_loss():
    weights, targets = problem(12)
    rule = sparsejax.soft_movement(0.3, penalty=2.0, score_optimizer=optax.sgd(0.1))
    tx = sparsejax.behind(optax.sgd(0.1), rule)
    w, scores, mask_expected, kept = (
        weights,
        np.zeros_like(weights),
        np.ones_like(weights, bool),
        [],
    )
    for t, ((stored, forward, mask), state) in enumerate(train(tx, weights, targets)):
        gradient = w * mask_expected - targets[t]
        sigmoid = 1 / (1 + np.exp(-scores))
        scores = scores - 0.1 * (w * gradient + 2.0 * sigmoid * (1 - sigmoid))
        w = w - 0.1 * gradient * mask_expected
        mask_expected = 1 / (1 + np.exp(-scores)) > 0.3
        kept.append(mask_expected.sum())
        np.testing.assert_allclose(state.rule_state.scores["w"], scores, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(mask, mask_expected)
        np.testing.assert_allclose(stored, w, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(forward, w * mask_expected, rtol=1e-5, atol=1e-6)
    assert kept[0] > kept[-1] > 0


def test_scores_are_trained_by_adam_if_asked_and_in_the_soft_form():
    """Adam's first step is the rate times the sign, whatever the gradient's size."""
    params, grads = {"w": jnp.array([[3.0, 2.0]])}, {"w": jnp.array([[1e-3, -10.0]])}
    for rule in (
        sparsejax.movement(0.5, score_optimizer=optax.adam(1e-2)),
        sparsejax.soft_movement(penalty=0.0),
    ):
        _, state = rule.after(grads, grads, rule.init(params), params)
        np.testing.assert_allclose(state.scores["w"], [[-0.01, 0.01]], rtol=1e-4)


def test_scores_are_exact_in_low_precision_and_kept_for_prunable_weights_alone():
    params = {"kernel": jnp.ones((2, 2), jnp.bfloat16), "bias": jnp.ones(2, jnp.bfloat16)}
    state = sparsejax.movement(0.5).init(params)
    assert state.scores["kernel"].dtype == jnp.float32
    assert state.scores["bias"].shape == ()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="sparsity must lie between"):
        sparsejax.movement(1.5)
    with pytest.raises(ValueError, match="threshold must lie between"):
        sparsejax.soft_movement(-0.1, penalty=1.0)
    with pytest.raises(ValueError, match="penalty must not be negative"):
        sparsejax.soft_movement(penalty=-1.0)
