"""SNIP before training, once and in rounds, and FORCE, against the papers' steps in NumPy."""

import jax
import numpy as np
import pytest

import sparsejax
from sparsejax.at_initialization import force, iterative_snip, snip
from tests.at_initialization.network import best, gradient, loss, problem, vector


@pytest.mark.parametrize("sparsity", [0.25, 0.75])
def test_snip_against_the_paper(sparsity):
    """s = |∂L/∂c| of masks c that multiply the weights, at c = 1."""
    params, batches = problem()
    masks = snip(loss, params, batches, sparsity)
    w = vector(params)
    sensitivities = np.abs(gradient(w, batches) * w)
    np.testing.assert_array_equal(vector(masks), best(sensitivities, round(32 * (1 - sparsity))))


def _in_rounds(w, batches, kept, comes_back):
    """The masks of all rounds."""
    mask, found = np.ones(len(w)), []
    for n in kept:
        at = w * mask
        scores = np.abs((w if comes_back else at) * gradient(at, batches))
        if not comes_back:
            scores[mask == 0] = -1
        mask = best(scores, n)
        found.append(mask)
    return np.array(found)


@pytest.mark.parametrize("method", [iterative_snip, force])
def test_rounds_against_the_paper(method):
    """32 × (1/8)^(i/6) connections after round i."""
    params, batches = problem()
    kept = [23, 16, 11, 8, 6, 4]
    assert kept == [round(32 * 0.125 ** (i / 6)) for i in range(1, 7)]
    expected = _in_rounds(vector(params), batches, kept, method is force)
    returns = (~expected[:-1] & expected[1:]).sum()
    assert bool(returns) == (method is force)
    masks = method(loss, params, batches, 0.875, rounds=6)
    np.testing.assert_array_equal(vector(masks), expected[-1])


def test_one_round_is_snip():
    params, batches = problem()
    single = snip(loss, params, batches, 0.5)
    for method in (iterative_snip, force):
        masks = method(loss, params, batches, 0.5, rounds=1)
        jax.tree.map(np.testing.assert_array_equal, masks, single)
        with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
            method(loss, params, batches, 0.5, rounds=0)


def test_the_order_of_batches_and_of_their_examples_does_not_matter():
    params, batches = problem()
    masks = snip(loss, params, batches, 0.5)
    other = snip(loss, params, jax.tree.map(lambda x: x[::-1, ::-1], batches), 0.5)
    jax.tree.map(np.testing.assert_array_equal, masks, other)
    first = snip(loss, params, jax.tree.map(lambda x: x[:1], batches), 0.5)
    assert np.any(vector(first) != vector(masks))  # but which they are does


def test_biases_that_compete_and_are_zero_go_first():
    params, batches = problem()
    masks = snip(loss, params, batches, 3 / 35, prunable=sparsejax.prunable_with_biases)
    assert not masks["bias"].any()
    assert vector(masks).all()


def test_without_batches_there_is_no_gradient():
    params, batches = problem()
    with pytest.raises(ValueError, match=r"one first axis .* lengths \[0\]"):
        snip(loss, params, jax.tree.map(lambda x: x[:0], batches), 0.5)
    with pytest.raises(ValueError, match=r"lengths \[2, 3\]"):
        snip(loss, params, (batches[0], batches[1][:2]), 0.5)
