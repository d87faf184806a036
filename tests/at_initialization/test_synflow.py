"""SynFlow, against the paper's steps in NumPy, its law of conservation, and layer collapse."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.at_initialization import magnitude, snip, synflow
from sparsejax.at_initialization.synflow import flow

WIDTHS = (6, 30, 40, 8, 4)
INPUTS = jax.ShapeDtypeStruct((1, WIDTHS[0]), jnp.float32)


def apply(params, x):
    for name in sorted(params)[:-1]:
        x = jax.nn.relu(x @ params[name])
    return x @ params[max(params)]


@pytest.fixture
def params():
    """Weights of variance 1 / fan-in."""
    rng = np.random.default_rng(0)
    shapes = itertools.pairwise(WIDTHS)
    return {str(i): jnp.float32(rng.normal(size=s) / s[0] ** 0.5) for i, s in enumerate(shapes)}


def _scores(weights):
    """|w| · ∂R/∂|w|: what flows to a connection times what flows on from it."""
    before, after = [np.ones(WIDTHS[0])], [np.ones(WIDTHS[-1])]
    for w in weights:
        before.append(before[-1] @ w)
    for w in reversed(weights):
        after.insert(0, w @ after[0])
    return [b[:, None] * w * a for b, w, a in zip(before[:-1], weights, after[1:], strict=True)]


def _synflow(params, sparsity, rounds):
    weights = [np.abs(np.float64(params[name])) for name in sorted(params)]
    size = sum(w.size for w in weights)
    masks = [np.ones(w.shape) for w in weights]
    for i in range(1, rounds + 1):
        scores = _scores([w * m for w, m in zip(weights, masks, strict=True)])
        pooled = np.concatenate([s.ravel() for s in scores])
        kept = round(size * (1 - sparsity) ** (i / rounds))
        least = np.sort(pooled)[-kept]
        masks = [s >= least for s in scores]
    return masks


@pytest.mark.parametrize(("sparsity", "rounds"), [(0.5, 1), (0.9, 7)])
def test_against_the_paper(params, sparsity, rounds):
    masks = synflow(apply, params, INPUTS, sparsity, rounds=rounds)
    for name, expected in zip(sorted(params), _synflow(params, sparsity, rounds), strict=True):
        np.testing.assert_array_equal(masks[name], expected)


def test_flow_is_conserved(params):
    """What comes into a hidden unit goes out of it, and each layer carries all of it."""
    masks = synflow(apply, params, INPUTS, 0.9, rounds=3)
    scores = flow(apply, params, INPUTS, masks)
    positive = {name: np.abs(p) * masks[name] for name, p in params.items()}
    total = np.ones(WIDTHS[0])
    for name in sorted(params):
        total = total @ positive[name]
    layers = [np.asarray(scores[name]) for name in sorted(params)]
    for into, out_of in itertools.pairwise(layers):
        np.testing.assert_allclose(into.sum(0), out_of.sum(1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose([s.sum() for s in layers], total.sum(), rtol=1e-4)


def test_no_layer_is_lost_where_others_lose_one(params):
    """Of 1,732 connections twelve are left."""
    sparsity = 1 - 12 / sum(p.size for p in params.values())

    def loss(params, x):
        return jnp.mean((apply(params, x) - 1) ** 2)

    batches = jnp.float32(np.random.default_rng(1).normal(size=(1, 20, WIDTHS[0])))
    masks = synflow(apply, params, INPUTS, sparsity)
    kept = [int(masks[name].sum()) for name in sorted(params)]
    assert sum(kept) == 12 and min(kept) >= 1
    through = np.ones(WIDTHS[0])
    for name in sorted(params):
        through = through @ np.asarray(masks[name])
    assert through.sum() >= 1
    for others in (magnitude(params, sparsity), snip(loss, params, batches, sparsity)):
        assert min(int(mask.sum()) for mask in others.values()) == 0
