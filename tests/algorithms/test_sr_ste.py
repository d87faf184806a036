"""SR-STE: the paper's update, with N:M masks."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from tests.algorithms.loop import problem, train


def _two_of_four(w):
    """Of every four neighbours along the inputs the two largest, group by group."""
    mask = np.zeros_like(w, bool)
    for i in range(0, w.shape[0], 4):
        for j in range(w.shape[1]):
            group = np.abs(w[i : i + 4, j])
            for best in sorted(range(4), key=lambda k: -group[k])[:2]:
                mask[i + best, j] = True
    return mask


def test_it_is_the_paper_s_update():
    """w ← w - γ (g(m ⊙ w) + λ (1 - m) ⊙ w), here with momentum as in the paper's training."""
    weights, targets = problem(8, (8, 5))
    rule = sparsejax.sr_ste(0.5, decay=0.3, structure=sparsejax.nm(2, 4))
    tx = sparsejax.behind(optax.sgd(0.2, momentum=0.9), rule)
    w, velocity, moved = weights, 0.0, 0
    mask_expected = _two_of_four(w)
    for ((stored, forward, mask), _), target in zip(
        train(tx, weights, targets), targets, strict=True
    ):
        velocity = 0.9 * velocity + (w * mask_expected - target) + 0.3 * (1 - mask_expected) * w
        w = w - 0.2 * velocity
        before, mask_expected = mask_expected, _two_of_four(w)
        moved += (before != mask_expected).sum()
        np.testing.assert_array_equal(mask, mask_expected)
        np.testing.assert_allclose(stored, w, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(forward, w * mask_expected, rtol=1e-4, atol=1e-5)
    assert moved


def test_without_decay_it_is_straight_through_pruning():
    weights, targets = problem(4)
    refined = sparsejax.behind(optax.adam(0.1), sparsejax.sr_ste(0.75, decay=0.0))
    plain = optax.chain(optax.adam(0.1), sparsejax.ste_magnitude(0.75))
    for (a, _), (b, _) in zip(
        train(refined, weights, targets), train(plain, weights, targets), strict=True
    ):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5)


def test_biases_do_not_fade():
    tx = sparsejax.behind(optax.sgd(1.0), sparsejax.sr_ste(0.5, decay=1.0))
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    updates, _ = tx.update(
        {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}, tx.init(params), params
    )
    assert updates["bias"].tolist() == [0, 0]
    assert updates["kernel"].tolist() == [[0, 0], [-1, -1]]


def test_a_negative_decay_is_refused_and_parameters_are_needed():
    with pytest.raises(ValueError, match="decay must not be negative, got -1"):
        sparsejax.sr_ste(0.5, decay=-1)
    tx = sparsejax.behind(optax.sgd(0.1), sparsejax.sr_ste(0.5))
    params = {"w": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match="behind needs the parameters"):
        tx.update(params, tx.init(params))
