"""GraSP, against finite differences of a gradient by hand."""

import numpy as np
import pytest

from sparsejax.at_initialization import grasp
from tests.at_initialization.network import best, gradient, loss, problem, vector


@pytest.mark.parametrize("temperature", [1.0, 200.0])
def test_against_the_paper(temperature):
    """Of -w · Hg, the paper's score, the smallest are kept."""
    params, batches = problem()
    w = vector(params)
    g = gradient(w, batches, temperature)
    step = 1e-4 / np.abs(g).max()
    ahead, behind = (gradient(w + s * g, batches, temperature) for s in (step, -step))
    scores = -w * (ahead - behind) / (2 * step)
    assert (scores > 0).any() and (scores < 0).any()
    for sparsity in (0.25, 0.75):
        kept = round(32 * (1 - sparsity))
        masks = grasp(loss, params, batches, sparsity, temperature=temperature)
        np.testing.assert_array_equal(vector(masks), best(-scores, kept))


def test_the_default_temperature_is_the_papers():
    params, batches = problem()
    default = grasp(loss, params, batches, 0.5)
    named = grasp(loss, params, batches, 0.5, temperature=200.0)
    other = grasp(loss, params, batches, 0.5, temperature=1.0)
    np.testing.assert_array_equal(vector(default), vector(named))
    assert np.any(vector(default) != vector(other))
