"""MEST against a transcription of the paper's two procedures: elastic mutation, and soft."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from tests.algorithms import oracle

SHAPES = {"a": (12, 5), "b": (6, 8)}
PERIOD, END, ALPHA, WEIGHT, STEPS = 2, 8, 0.5, 0.7, 11


@pytest.mark.parametrize("soft", [False, True])
def test_updates_are_those_of_the_pseudo_code(soft):
    rng = np.random.default_rng(0)
    w, g = (
        {n: rng.normal(size=(STEPS, *s)).astype(np.float32) for n, s in SHAPES.items()}
        for _ in range(2)
    )
    rule = sparsejax.mest(
        0.7,
        period=PERIOD,
        end=END,
        drop_fraction=ALPHA,
        gradient_weight=WEIGHT,
        soft=soft,
    )

    def step(state, given):
        # A weight that is not there is 0.
        params = sparsejax.apply_masks(given[0], state.masks)
        _, state = rule.update(given[1], state, params)
        return state, state.masks

    first = rule.init({n: jnp.asarray(x[0]) for n, x in w.items()})
    after = oracle.quick_jit(lambda state: jax.lax.scan(step, state, (w, g))[1])(first)
    after, before = jax.tree.map(np.asarray, (after, first.masks))
    bound = {n: int(m.sum()) for n, m in before.items()}
    assert bound == {"a": 18, "b": 14}
    grown = 0
    for t in range(STEPS):
        # The share falls in two steps, to nothing at the end.
        p = {True: ALPHA, False: ALPHA / 2}[t < 0.75 * END] if t < END else 0.0
        for n in SHAPES:
            if t == 0 or t % PERIOD or t > END:
                np.testing.assert_array_equal(after[n][t], before[n])
                continue
            score = np.abs(np.where(before[n], w[n][t], 0)) + np.float32(WEIGHT) * np.abs(g[n][t])
            if soft:  # the mask may be larger than the bound, and is cut to it first
                left = oracle.drop(before[n], score, before[n].sum() - bound[n])
                number = round(p * bound[n])
            else:
                number = round(p * bound[n])
                left = oracle.drop(before[n], score, number)
            assert after[n][t][left].all(), "what is to stay is gone"
            assert after[n][t].sum() == left.sum() + number
            grown += (after[n][t] & ~before[n]).sum()
        before = {n: after[n][t] for n in after}
    assert grown > 20
    assert {n: int(m.sum()) for n, m in before.items()} == bound


def test_a_layer_that_is_nearly_dense_grows_as_far_as_it_can():
    rule = sparsejax.mest(0.25, period=1, drop_fraction=1.0, soft=True)
    params = {"w": jnp.ones((4, 4))}
    state = rule.init(params)._replace(count=jnp.int32(1))
    assert rule.update(params, state, params)[1].masks["w"].all()
