"""CrAM and CrAM+: the paper's gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from tests.algorithms.loop import largest, problem, train


@pytest.mark.parametrize("plus", [True, False])
def test_it_is_the_paper_s_algorithm(plus):
    weights, targets = problem(6)
    tx = sparsejax.behind(optax.sgd(0.1, momentum=0.9), sparsejax.cram(0.75, radius=0.3, plus=plus))
    w, velocity, differ = weights, 0.0, 0
    for ((stored, forward, mask), _), target in zip(
        train(tx, weights, targets), targets, strict=True
    ):
        gradient = w - target
        risen = w + 0.3 * gradient
        kept = largest(np.abs(risen), 12)
        differ += (kept != largest(np.abs(w), 12)).sum()
        total = kept * (risen * kept - target) + (gradient if plus else 0)
        velocity = 0.9 * velocity + total
        w = w - 0.1 * velocity
        np.testing.assert_allclose(stored, w, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(mask, largest(np.abs(w), 12))
        np.testing.assert_allclose(forward, w * mask, rtol=1e-4, atol=1e-5)
    assert differ


def test_biases_are_trained_at_both_points_and_the_gradient_is_needed():
    tx = sparsejax.behind(optax.sgd(1.0), sparsejax.cram(0.5, radius=1.0))
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    grad_fn = jax.grad(lambda p: sum(jnp.sum(x**2) / 2 for x in jax.tree.leaves(p)))
    updates, _ = tx.update(params, tx.init(params), params, grad_fn=grad_fn)
    # The dense gradient is 1; the other, where the ascent has led to 2, is 2.
    assert updates["bias"].tolist() == [-3, -3]
    assert updates["kernel"].tolist() == [[-3, -3], [-1, -1]]
    with pytest.raises(ValueError, match="cram needs the gradient as a function"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match="radius must not be negative"):
        sparsejax.cram(0.5, radius=-1.0)
