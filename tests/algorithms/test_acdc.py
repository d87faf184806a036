"""AC/DC: the algorithm of the paper, and its phases."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from tests.algorithms.loop import largest, problem, train


def _algorithm(w, targets, kept, warm_up, phase, last, rate):
    """Dense up to `warm_up`, then compressed and dense in turn, compressed from `last` on."""
    compressed_steps, t = set(range(last, len(targets))), warm_up
    while t + phase < last:
        compressed_steps |= set(range(t, t + phase))
        t += 2 * phase
    mask, was_compressed = np.ones_like(w, bool), False
    for t, target in enumerate(targets):
        is_compressed = t in compressed_steps
        if is_compressed and not was_compressed:
            mask = largest(np.abs(w), kept)
            w = w * mask
        if not is_compressed:
            mask = np.ones_like(w, bool)
        was_compressed = is_compressed
        w = w - rate * mask * (w - target)
        yield w, mask


def test_it_is_the_paper_s_algorithm():
    weights, targets = problem(14)
    rule = sparsejax.acdc(0.75, begin=2, end=11, period=2, distribution=sparsejax.uniform)
    tx = sparsejax.sparsify(optax.sgd(0.3), rule)
    expected = _algorithm(weights, targets, 12, 2, 2, 11, 0.3)
    kept = []
    for ((w, _, mask), _), (w_expected, mask_expected) in zip(
        train(tx, weights, targets), expected, strict=True
    ):
        np.testing.assert_array_equal(mask, mask_expected)
        np.testing.assert_allclose(w, w_expected, rtol=1e-5, atol=1e-6)
        kept.append(int(mask.sum()))
    # The phase of steps 10 and 11 would reach the end, so that it stays dense.
    assert kept == [48] * 2 + [12] * 2 + [48] * 2 + [12] * 2 + [48] * 3 + [12] * 3


def test_the_phases_of_the_paper_s_resnet():
    """10 of 100 epochs of warm-up, phases of 5, and the last two of 10 and 15."""
    params = {"w": jnp.ones((2, 2))}
    rule = sparsejax.acdc(0.5, begin=10, end=85, period=5)

    def step(state, _):
        _, state = rule.update(params, state, params)
        return state, sparsejax.get_masks(state)["w"].sum()

    _, kept = jax.lax.scan(step, rule.init(params), length=100)
    expected = [4] * 10 + ([2] * 5 + [4] * 5) * 7 + [4] * 5 + [2] * 15
    assert kept.tolist() == expected


def test_momentum_starts_anew_where_weights_come_back():
    weights, targets = problem(4)
    rule = sparsejax.acdc(0.75, begin=0, end=9, period=2)
    tx = sparsejax.sparsify(optax.sgd(0.1, momentum=0.9), rule)
    *_, (before, _), (after, state) = list(train(tx, weights, targets))[:3]
    came = ~before[2]
    assert came.sum() == 36
    slots = np.asarray(state.inner_state[0].trace["w"])
    np.testing.assert_allclose(slots[came], -targets[2][came], rtol=1e-6)
    np.testing.assert_allclose(after[0][came], 0.1 * targets[2][came], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.2, "begin": 0, "end": 9, "period": 2}, "sparsity must lie between"),
        ({"sparsity": 0.5, "begin": 5, "end": 4, "period": 2}, "end must not lie before begin"),
        ({"sparsity": 0.5, "begin": 0, "end": 4, "period": 0}, "period must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sparsejax.acdc(**arguments)


def test_a_sparsity_out_of_reach_is_refused_at_the_start():
    rule = sparsejax.acdc(
        0.9,
        begin=3,
        end=4,
        period=1,
        distribution=sparsejax.uniform,
        structure=sparsejax.nm(2, 4),
    )
    with pytest.raises(ValueError, match="keeps at least 2 of 4"):
        rule.init({"w": jnp.ones((4, 4))})
