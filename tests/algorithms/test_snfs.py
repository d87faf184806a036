"""Sparse momentum against a transcription of the paper's Algorithm 1."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from tests.algorithms import oracle

SHAPES = {"a": (6, 5), "b": (4, 8), "c": (2, 3)}
STEPS, PERIOD, END, RATE, ALPHA, BETA = 9, 2, 8, 0.1, 0.5, 0.7


def test_the_trajectory_is_that_of_the_pseudo_code():
    rng = np.random.default_rng(0)
    params = {n: rng.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}
    # One layer has ten times the gradients of another, so that it fills up.
    scales = {"a": 1.0, "b": 0.3, "c": 10.0}
    grads = {n: scales[n] * rng.normal(size=(STEPS, *s)) for n, s in SHAPES.items()}
    grads = {n: g.astype(np.float32) for n, g in grads.items()}
    tx = sparsejax.sparsify(
        optax.sgd(RATE),
        sparsejax.snfs(0.5, period=PERIOD, end=END, drop_fraction=ALPHA, momentum=BETA),
    )
    state = tx.init(params)
    masks = {n: np.array(m) for n, m in sparsejax.get_masks(state).items()}

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, sparsejax.get_masks(state))

    start = sparsejax.apply_masks(jax.tree.map(jnp.asarray, params), masks)
    history, held = oracle.quick_jit(lambda *x: jax.lax.scan(step, x, grads))(start, state)[1]

    w = {n: np.where(masks[n], params[n], 0) for n in params}
    momentum = {n: np.zeros(s, np.float32) for n, s in SHAPES.items()}
    layers_filled = 0
    for t in range(STEPS):
        g = {n: grads[n][t] for n in grads}
        momentum = {n: np.float32(BETA) * momentum[n] + np.float32(1 - BETA) * g[n] for n in g}
        if t > 0 and t % PERIOD == 0:
            fraction = ALPHA / 2 * (1 + np.cos(np.pi * t / END))
            contribution = {n: np.abs(momentum[n][masks[n]]).mean() for n in g}
            left = {
                n: oracle.drop(masks[n], np.abs(w[n]), round(fraction * masks[n].sum())) for n in g
            }
            removed = sum(masks[n].sum() - left[n].sum() for n in g)
            numbers = oracle.share_out(
                int(removed), [(~left[n]).sum() for n in g], [contribution[n] for n in g]
            )
            for n, number in zip(g, numbers, strict=True):
                new = oracle.grow(left[n], np.abs(momentum[n]), number)
                w[n] = np.where(new & masks[n], w[n], 0)
                masks[n] = new
                layers_filled += new.all()
        w = {n: np.where(masks[n], w[n] - np.float32(RATE) * g[n], 0) for n in g}
        for n in g:
            np.testing.assert_array_equal(held[n][t], masks[n], err_msg=f"{n}, step {t}")
            np.testing.assert_allclose(history[n][t], w[n], rtol=1e-5, atol=1e-6)
    assert layers_filled


def test_what_is_no_fraction_is_refused():
    with pytest.raises(ValueError, match="momentum must lie between"):
        sparsejax.snfs(0.5, momentum=1.5)
    with pytest.raises(ValueError, match="drop_fraction must lie between"):
        sparsejax.snfs(0.5, drop_fraction=-1.0)
