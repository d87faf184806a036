"""Optimal brain damage: the saliency ½ F w² with F the running mean of the squared gradients."""

import numpy as np
import optax
import pytest

import sparsejax
from tests.algorithms.loop import largest, problem, train


def test_it_is_the_paper_s_saliency():
    weights, targets = problem(9)
    rule = sparsejax.obd(0.75, begin=2, end=6, period=2, decay=0.7, schedule=sparsejax.linear)
    tx = sparsejax.sparsify(optax.sgd(0.3), rule)
    w, mask_expected, fisher = weights, np.ones_like(weights, bool), 0.0
    for t, ((stored, _, mask), _) in enumerate(train(tx, weights, targets)):
        gradient = w - targets[t]
        fisher = 0.7 * fisher + 0.3 * gradient**2
        if t in (2, 4, 6):
            count = round(48 * (1 - 0.75 * (t - 2) / 4))
            mask_expected = largest(np.where(mask_expected, fisher * w**2 / 2, -1), count)
            w = w * mask_expected
        w = w - 0.3 * mask_expected * gradient
        np.testing.assert_array_equal(mask, mask_expected)
        np.testing.assert_allclose(stored, w, rtol=1e-5, atol=1e-6)
    assert mask_expected.sum() == 12
    assert (mask_expected != largest(np.abs(weights), 12)).any()


def test_a_decay_that_is_no_fraction_is_refused():
    with pytest.raises(ValueError, match="decay must lie between"):
        sparsejax.obd(0.5, begin=0, end=1, decay=-0.5)
