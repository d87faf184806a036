"""Dynamic sparse reparameterization against a transcription of the paper's Algorithm 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from tests.algorithms import oracle

SHAPES = {"a": (30, 5), "b": (20, 8), "c": (3, 4)}
TARGET, DELTA, FIRST = 0.25, 0.2, 0.01


@pytest.fixture(scope="module")
def history():
    """Masks and thresholds of some updates, and the weights at each."""
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(size=(12, *s)).astype(np.float32) for n, s in SHAPES.items()}
    weights["c"] *= 0.1  # this layer loses everything when the threshold is high
    rule = sparsejax.dsr(
        0.6, period=1, drop_fraction=TARGET, threshold=FIRST, tolerance=DELTA, seed=3
    )

    def step(state, params):
        _, state = rule.update(params, state, params)
        return state, (state.masks, state.memory)

    first = rule.init({n: jnp.asarray(w[0]) for n, w in weights.items()})
    _, (masks, limits) = oracle.quick_jit(lambda state: jax.lax.scan(step, state, weights))(first)
    return weights, jax.tree.map(np.asarray, (first.masks, masks, limits))


def test_updates_are_those_of_the_pseudo_code(history):
    weights, (before, after, limits) = history
    limit, moves = FIRST, set()
    total = sum(int(m.sum()) for m in before.values())
    assert total == round(0.4 * 150) + round(0.4 * 160) + round(0.4 * 12)
    for t in range(12):
        if t > 0:  # the first update comes at step `period`
            left = {n: before[n] & ~(np.abs(weights[n][t]) < limit) for n in before}
            pruned = total - sum(int(m.sum()) for m in left.values())
            numbers = oracle.share_out(
                pruned,
                [(~left[n]).sum() for n in left],
                [left[n].sum() for n in left],
            )
            for n, number in zip(left, numbers, strict=True):
                assert (after[n][t] & left[n]).sum() == left[n].sum(), "a survivor is gone"
                assert after[n][t].sum() == left[n].sum() + number
            target = round(TARGET * total)
            if pruned < (1 - DELTA) * target:
                limit, move = limit * 2, "up"
            elif pruned > (1 + DELTA) * target:
                limit, move = limit / 2, "down"
            else:
                move = "stay"
            moves.add(move)
        assert sum(int(after[n][t].sum()) for n in after) == total
        np.testing.assert_allclose(limits[t], limit, rtol=1e-6)
        before = {n: after[n][t] for n in after}
    assert moves == {"up", "down", "stay"}


def test_growth_is_uniform():
    """Every entry off the mask comes as often."""
    place = jnp.arange(20).reshape(4, 5)
    weights = {"w": jnp.where(place < 10, 1.0, 0.001)}
    masks = {"w": (place > 0) & (place < 10) | (place == 19)}  # the last one is about to go

    def grown(seed):
        rule = sparsejax.dsr(0.5, period=1, threshold=0.01, seed=seed)
        state = rule.init(weights)._replace(count=jnp.int32(1), masks=masks)
        return rule.update(weights, state, weights)[1].masks["w"]

    times = np.asarray(oracle.quick_jit(jax.vmap(grown))(jnp.arange(400))).sum(0).ravel()
    assert (times[1:10] == 400).all()
    off = np.concatenate([times[:1], times[10:]])
    assert off.sum() == 400
    assert off.min() > 15 and off.max() < 65  # 36 expected, 6 the standard deviation


@pytest.mark.parametrize("threshold", [0.0, -1.0])
def test_a_threshold_that_never_moves_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold must be above 0"):
        sparsejax.dsr(0.5, threshold=threshold)
