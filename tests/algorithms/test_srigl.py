"""SRigL against a transcription of the paper's seven steps, neuron by neuron."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from tests.algorithms import oracle

SHAPES = {"a": (12, 7), "b": (3, 2, 5)}
PERIOD, END, ALPHA, STEPS = 1, 9, 0.5, 8


def transcription(mask, w, g, budget, fraction, gamma):
    """One layer's update; arrays are (inputs, neurons)."""
    w, g = np.abs(w), np.abs(g)
    n = int(mask.sum())
    moved = round(fraction * n)
    salient = oracle.drop(mask, w, moved) | oracle.grow(mask, g, moved) & ~mask
    fan_in = mask.sum(0).max()
    active = [j for j in range(mask.shape[1]) if salient[:, j].sum() >= gamma * fan_in]
    active = active or list(range(mask.shape[1]))
    new_fan_in = min(budget // len(active), mask.shape[0])
    left = mask.copy()
    left[:, [j for j in range(mask.shape[1]) if j not in active]] = False
    left = oracle.drop(left, w, max(int(left.sum()) - (n - moved), 0))
    new = np.zeros_like(mask)
    for j in active:
        column = oracle.drop(left[:, j], w[:, j], max(left[:, j].sum() - new_fan_in, 0))
        new[:, j] = oracle.grow(column, g[:, j], new_fan_in - column.sum())
    return new


@pytest.mark.parametrize("gamma", [0.0, 0.6, 0.95])
def test_updates_are_those_of_the_pseudo_code(gamma):
    rng = np.random.default_rng(1)
    w, g = (
        {n: rng.normal(size=(STEPS, *s)).astype(np.float32) for n, s in SHAPES.items()}
        for _ in range(2)
    )
    for x in (*w.values(), *g.values()):
        x *= np.linspace(0.3, 2, x.shape[-1], dtype=np.float32)  # some neurons matter less
    rule = sparsejax.srigl(
        0.6,
        period=PERIOD,
        end=END,
        drop_fraction=ALPHA,
        salient_fraction=gamma,
        distribution=sparsejax.uniform,
    )

    def step(state, given):
        params = sparsejax.apply_masks(given[0], state.masks)
        _, state = rule.update(given[1], state, params)
        return state, state.masks

    first = rule.init({n: jnp.asarray(x[0]) for n, x in w.items()})
    after = oracle.quick_jit(lambda state: jax.lax.scan(step, state, (w, g))[1])(first)
    before = {n: np.array(m).reshape(-1, m.shape[-1]) for n, m in first.masks.items()}
    budget = {n: int(m.sum()) for n, m in before.items()}
    assert budget == {"a": 5 * 7, "b": 2 * 5}
    least = 99
    for t in range(1, STEPS):
        fraction = ALPHA / 2 * (1 + np.cos(np.pi * t / END))
        for n in SHAPES:
            shape = before[n].shape
            weights = np.where(before[n], w[n][t].reshape(shape), 0)
            new = transcription(
                before[n], weights, g[n][t].reshape(shape), budget[n], fraction, gamma
            )
            np.testing.assert_array_equal(after[n][t].reshape(shape), new, err_msg=f"{n}, {t}")
            fan_in = new.sum(0)
            assert len(set(fan_in[fan_in > 0])) == 1
            neurons = (fan_in > 0).sum()
            assert budget[n] - neurons < new.sum() <= budget[n] or fan_in.max() == shape[0]
            least = min(least, neurons / shape[1])
            before[n] = new
    assert (least < 1) == (gamma > 0)
