"""Gradual magnitude pruning along each schedule: the masks, the counts, and what comes back."""

import functools

import numpy as np
import optax
import pytest

import sparsejax
from tests.algorithms.loop import largest, problem, train

BEGIN, END, PERIOD, FINAL, INITIAL = 1, 9, 2, 0.75, 0.25
SCHEDULES = {
    "cubic": (sparsejax.cubic, lambda x: FINAL + (INITIAL - FINAL) * (1 - x) ** 3),
    "linear": (sparsejax.linear, lambda x: INITIAL + (FINAL - INITIAL) * x),
    "exponential": (
        sparsejax.exponential,
        lambda x: 1 - (1 - INITIAL) * ((1 - FINAL) / (1 - INITIAL)) ** x,
    ),
    "cyclic": (
        functools.partial(sparsejax.cyclic, cycles=2),
        lambda x: FINAL + (INITIAL - FINAL) * (1 - (1 if x == 1 else 2 * x % 1)) ** 3,
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_it_is_the_paper_s_algorithm(name):
    schedule, sparsity = SCHEDULES[name]
    weights, targets = problem(11)
    rule = sparsejax.gmp(
        FINAL, begin=BEGIN, end=END, period=PERIOD, initial_sparsity=INITIAL, schedule=schedule
    )
    tx = sparsejax.sparsify(optax.sgd(0.3), rule)
    w, mask_expected, came = weights, np.ones_like(weights, bool), 0
    for t, ((stored, _, mask), _) in enumerate(train(tx, weights, targets)):
        if t in range(BEGIN, END + 1, PERIOD):
            kept = round(48 * (1 - sparsity((t - BEGIN) / (END - BEGIN))))
            # A weight that is on the mask ranks before those that are not.
            before = mask_expected
            mask_expected = largest(np.where(mask_expected, np.abs(w), -1), kept)
            came += (mask_expected & ~before).sum()
            w = w * mask_expected
        w = w - 0.3 * mask_expected * (w - targets[t])
        np.testing.assert_array_equal(mask, mask_expected)
        np.testing.assert_allclose(stored, w, rtol=1e-5, atol=1e-6)
    assert mask_expected.sum() == 12
    assert bool(came) == (name == "cyclic")
