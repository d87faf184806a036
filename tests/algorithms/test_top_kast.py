"""Top-KAST: the paper's two sets and its exploration penalty."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from tests.algorithms.loop import largest, problem, train


@pytest.mark.parametrize("period", [1, 3])
def test_it_is_the_paper_s_algorithm(period):
    """Adam would move a weight that had a gradient before; outside of B none moves."""
    weights, targets = problem(9)
    rule = sparsejax.top_kast(0.75, backward_sparsity=0.5, decay=0.2, when=sparsejax.every(period))
    tx = sparsejax.behind(optax.sgd(0.3, momentum=0.9), rule)
    w, velocity, swaps = weights, 0.0, 0
    forward_set, backward_set = largest(np.abs(w), 12), largest(np.abs(w), 24)
    for t, ((stored, forward, mask), state) in enumerate(train(tx, weights, targets)):
        gradient = w * forward_set - targets[t]
        gradient = gradient + 0.2 * w * np.where(forward_set, 1, 1 / 0.25)
        velocity = 0.9 * velocity + gradient * backward_set
        w = w - 0.3 * velocity * backward_set
        if t % period == 0:
            before = backward_set
            forward_set, backward_set = largest(np.abs(w), 12), largest(np.abs(w), 24)
            swaps += (before != backward_set).sum()
        np.testing.assert_array_equal(mask, forward_set)
        np.testing.assert_array_equal(state.rule_state.backward["w"], backward_set)
        np.testing.assert_allclose(stored, w, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(forward, w * forward_set, rtol=1e-4, atol=1e-5)
    assert swaps


def test_the_density_of_the_penalty_is_each_layer_s_own():
    params = {"a": jnp.arange(1.0, 9.0).reshape(2, 4), "b": jnp.arange(9.0, 17.0).reshape(2, 4)}
    rule = sparsejax.top_kast(
        0.375, backward_sparsity=0.0, decay=1.0, distribution=sparsejax.global_
    )
    tx = sparsejax.behind(optax.sgd(1.0), rule)
    zeros = {"a": jnp.zeros((2, 4)), "b": jnp.zeros((2, 4))}
    updates, _ = tx.update(zeros, tx.init(params), params)
    # The budget of 10 keeps all of b, and of a the two that are largest: a quarter.
    assert updates["b"].tolist() == (-params["b"]).tolist()
    assert updates["a"].tolist() == [[-4, -8, -12, -16], [-20, -24, -7, -8]]


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"backward_sparsity is at most 0\.5, got 0\.6"):
        sparsejax.top_kast(0.5, backward_sparsity=0.6)
    with pytest.raises(ValueError, match="backward_sparsity must lie between"):
        sparsejax.top_kast(0.5, backward_sparsity=-0.1)
    with pytest.raises(ValueError, match="decay must not be negative"):
        sparsejax.top_kast(0.5, backward_sparsity=0.4, decay=-1.0)
