"""GraNet against a transcription of its procedure: global pruning, then regeneration."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from tests.algorithms import oracle

SHAPES = {"a": (6, 5), "b": (4, 8)}
BEGIN, END, LAST, PERIOD, ALPHA, RATE, STEPS = 1, 6, 9, 2, 0.4, 0.1, 12


@pytest.mark.parametrize("initial", [0.0, 0.5])
def test_the_trajectory_is_that_of_the_pseudo_code(initial):
    rng = np.random.default_rng(0)
    params = {n: rng.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}
    params["b"] *= 2  # so that the layers do not keep the same share
    grads = {n: rng.normal(size=(STEPS, *s)).astype(np.float32) for n, s in SHAPES.items()}
    tx = sparsejax.sparsify(
        optax.sgd(RATE),
        sparsejax.granet(
            0.8,
            begin=BEGIN,
            end=END,
            period=PERIOD,
            initial_sparsity=initial,
            drop_fraction=ALPHA,
            regrow_end=LAST,
        ),
    )
    state = tx.init(params)
    masks = {n: np.array(m) for n, m in sparsejax.get_masks(state).items()}
    assert sum(m.sum() for m in masks.values()) == 62 * (1 - initial)

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, sparsejax.get_masks(state))

    start = sparsejax.apply_masks(jax.tree.map(jnp.asarray, params), masks)
    history, held = oracle.quick_jit(lambda *x: jax.lax.scan(step, x, grads))(start, state)[1]

    w = {n: np.where(masks[n], params[n], 0) for n in params}
    back = 0
    for t in range(STEPS):
        prunes = BEGIN <= t <= END and ((t - BEGIN) % PERIOD == 0 or t == END)
        if prunes or (BEGIN <= t <= LAST and ((t - BEGIN) % PERIOD == 0 or t == LAST)):
            left = max(0.0, 1 - (t - BEGIN) / (END - BEGIN))
            keep = round(62 * (1 - (0.8 + (initial - 0.8) * left**3)))
            whole = np.concatenate([masks[n].ravel() for n in w])
            size = np.concatenate([np.abs(w[n]).ravel() for n in w])
            cut = oracle.drop(whole, size, whole.sum() - keep)
            pruned = {"a": cut[:30].reshape(6, 5), "b": cut[30:].reshape(4, 8)}
            fraction = ALPHA / 2 * (1 + np.cos(np.pi * t / LAST))
            for n in w:
                number = round(fraction * pruned[n].sum())
                stays = oracle.drop(pruned[n], np.abs(w[n]), number)
                new = oracle.grow(stays, np.abs(grads[n][t]), number)
                back += (new & ~masks[n]).sum()
                w[n] = np.where(new & masks[n], w[n], 0)
                masks[n] = new
        w = {n: np.where(masks[n], w[n] - np.float32(RATE) * grads[n][t], 0) for n in w}
        for n in w:
            np.testing.assert_array_equal(held[n][t], masks[n], err_msg=f"{n}, step {t}")
            np.testing.assert_allclose(history[n][t], w[n], rtol=1e-5, atol=1e-6)
    assert back
    assert sum(m.sum() for m in masks.values()) == 12


def test_a_regeneration_that_ends_too_early_is_refused():
    with pytest.raises(ValueError, match="regrow_end must not lie before end = 9, got 5"):
        sparsejax.granet(0.5, begin=0, end=9, regrow_end=5)
