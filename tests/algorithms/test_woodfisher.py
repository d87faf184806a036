"""WoodFisher: inverses, scores and compensation as the paper has them, by inverting matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax import fisher
from tests.algorithms.loop import largest, problem, train

BLOCK, DAMPING, SAMPLES = 5, 0.1, 3  # 5 does not divide the 48 weights


def _inverse_blocks(gradients, size):
    """(λ I + 1/m Σ g gᵀ)⁻¹ block by block, in double precision."""
    flat = [g.astype(np.float64).ravel() for g in gradients]
    for start in range(0, size, BLOCK):
        part = slice(start, min(start + BLOCK, size))
        outer = sum(np.outer(g[part], g[part]) for g in flat) / SAMPLES
        yield part, np.linalg.inv(DAMPING * np.eye(part.stop - start) + outer)


def _prune(w, mask, gradients, kept):
    """One pruning: the scores of all weights, then for each that goes the others' update."""
    flat, scores, inverses = w.astype(np.float64).ravel(), np.zeros(w.size), []
    for part, inverse in _inverse_blocks(gradients, w.size):
        scores[part] = flat[part] ** 2 / (2 * np.diag(inverse))
        inverses.append((part, inverse))
    new = largest(np.where(mask, scores.reshape(w.shape), -1), kept)
    gone, updated = (mask & ~new).ravel(), flat.copy()
    for part, inverse in inverses:
        for q in np.flatnonzero(gone[part]):
            updated[part] -= flat[part][q] / inverse[q, q] * inverse[:, q]
    return updated.reshape(w.shape) * new, new


@pytest.mark.parametrize("replace_step", [False, True])
def test_it_is_the_paper_s_algorithm(replace_step):
    weights, targets = problem(9)
    rule = sparsejax.woodfisher(
        0.75,
        begin=2,
        end=7,  # the grid misses it: two gradients lie before the last pruning
        period=3,
        samples=SAMPLES,
        block=BLOCK,
        damping=DAMPING,
        initial_sparsity=0.25,
        schedule=sparsejax.linear,
    )
    tx = sparsejax.sparsify(optax.sgd(0.3), rule, replace_step=replace_step)
    w, mask_expected, gradients = weights, np.ones_like(weights, bool), []
    for t, ((stored, _, mask), _) in enumerate(train(tx, weights, targets)):
        gradient = (w - targets[t]) * mask_expected
        gradients.append(gradient)
        prunes = t in (2, 5, 7)
        if prunes:
            kept = round(48 * (0.75 - 0.5 * (t - 2) / 5))
            w, mask_expected = _prune(w, mask_expected, gradients[-SAMPLES:], kept)
            gradients = []
        if not (prunes and replace_step):
            w = w - 0.3 * gradient * mask_expected
        np.testing.assert_array_equal(mask, mask_expected)
        np.testing.assert_allclose(stored, w, rtol=1e-4, atol=1e-5)
    assert mask_expected.sum() == 12


def test_only_the_last_gradients_count():
    """With more steps between two prunings than samples, the first of them have no influence."""
    weights, targets = problem(5)
    rule = sparsejax.woodfisher(0.5, begin=3, end=4, samples=2, block=4, damping=0.1)
    state, inverses = rule.init({"w": weights}), []
    update = jax.jit(rule.update)
    for target in targets[:3]:
        _, state = update({"w": weights - target}, state, {"w": weights})
        inverses.append(np.asarray(state.inverse["w"]))
    np.testing.assert_array_equal(inverses[0], inverses[1])
    assert (inverses[1] != inverses[2]).any()


def test_an_inverse_is_that_of_the_matrix():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(SAMPLES, 3, 4)).astype(np.float32)
    inverse = fisher.no_gradient(12, BLOCK, DAMPING)
    for g in gradients:
        inverse = fisher.add_gradient(inverse, jnp.asarray(g), SAMPLES)
    for block, (part, expected) in zip(inverse, _inverse_blocks(gradients, 12), strict=True):
        length = part.stop - part.start
        np.testing.assert_allclose(block[:length, :length], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["samples", "block", "damping"])
def test_what_is_not_positive_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        sparsejax.woodfisher(0.5, begin=0, end=1, **{name: 0})


def test_parameters_are_needed():
    rule = sparsejax.woodfisher(0.5, begin=0, end=1)
    params = {"w": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match="needs the parameters"):
        rule.update(params, rule.init(params))
