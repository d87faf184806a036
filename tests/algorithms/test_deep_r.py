"""DeepR against a transcription of the paper's Algorithm 1, the rewiring at the next update."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from tests.algorithms import oracle

STEPS, RATE, DRIFT = 12, 0.1, 0.5


def run(rule, params, grads):
    tx = sparsejax.sparsify(optax.sgd(RATE), rule)
    state = tx.init(params)
    first = sparsejax.get_masks(state)

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, sparsejax.get_masks(state))

    start = sparsejax.apply_masks(params, first)
    history = oracle.quick_jit(lambda *x: jax.lax.scan(step, x, grads)[1])(start, state)
    return jax.tree.map(np.asarray, (first, *history))


def test_the_trajectory_is_that_of_the_pseudo_code():
    rng = np.random.default_rng(0)
    initial = {n: rng.normal(size=s).astype(np.float32) for n, s in (("a", (9, 8)), ("b", (5, 6)))}
    initial["b"][:2] = 0  # their signs are tossed
    grads = {n: rng.normal(size=(STEPS, *w.shape)).astype(np.float32) for n, w in initial.items()}
    rule = sparsejax.deep_r(0.75, learning_rate=RATE, l1=DRIFT, seed=5)
    signs = {n: np.where(s, 1, -1) for n, s in rule.init(initial).memory.items()}
    for n, w in initial.items():
        assert (signs[n] == np.sign(w))[w != 0].all()
        assert 0 < (signs[n][w == 0] > 0).sum() < (w == 0).sum() or n == "a"
    masks, params, held = run(rule, jax.tree.map(jnp.asarray, initial), grads)

    rewired = 0
    theta = {n: np.where(masks[n], signs[n] * initial[n], 0) for n in initial}
    for t in range(STEPS):
        for n in theta:
            active = masks[n] & ~(theta[n] < 0)
            new = held[n][t]
            # Which dormant connections come is up to chance; that they are dormant, and how many
            # there are, is not.
            assert new[active].all()
            assert new.sum() == masks[n].sum()
            assert not (new & masks[n] & ~active).any()
            rewired += (new & ~active).sum()
            theta[n] = np.where(active, theta[n], 0)
            masks[n] = new
            step = RATE * signs[n] * grads[n][t] + RATE * DRIFT
            theta[n] = np.where(new, theta[n] - step, 0)
            np.testing.assert_allclose(
                params[n][t], signs[n] * theta[n], rtol=1e-5, atol=1e-5, err_msg=f"{n}, {t}"
            )
    assert rewired > 20


def test_noise_has_its_temperature_and_stays_on_the_mask():
    params = {"w": jnp.ones((80, 100))}
    grads = {"w": np.zeros((2, 80, 100), np.float32)}
    heat = functools.partial(sparsejax.deep_r, 0.5, learning_rate=RATE, l1=0.0, temperature=0.002)
    _, one, held = run(heat(), params, grads)
    _, other, _ = run(heat(seed=1), params, grads)
    mask = held["w"][0]
    steps = [one["w"][0][mask] - 1, (one["w"][1] - one["w"][0])[mask & held["w"][1]]]
    for step in steps:
        assert abs(step.std() / np.sqrt(2 * RATE * 0.002) - 1) < 0.05
        assert abs(step.mean()) < 0.002
    assert abs(np.corrcoef(steps[0], (one["w"][1] - one["w"][0])[mask])[0, 1]) < 0.1
    assert not np.array_equal(one["w"], other["w"])


def test_growth_is_uniform_among_the_dormant():
    weights = {"w": jnp.array([[-1.0, 1.0, 0.0, 0.0, 0.0, 0.0]])}
    mask = {"w": jnp.array([[True, True, False, False, False, False]])}

    def grown(seed):
        rule = sparsejax.deep_r(0.6, learning_rate=1.0, seed=seed)
        state = rule.init({"w": jnp.ones((1, 6))})._replace(masks=mask, count=jnp.int32(1))
        return rule.update(weights, state, weights)[1].masks["w"][0]

    times = np.asarray(oracle.quick_jit(jax.vmap(grown))(jnp.arange(400))).sum(0)
    assert times[:2].tolist() == [0, 400]
    assert times[2:].sum() == 400
    assert times[2:].min() > 65 and times[2:].max() < 135  # 100 expected, 8.7 the deviation


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"l1": -1.0}, "l1 must not be negative"),
        ({"temperature": -1.0}, "temperature must not be negative"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sparsejax.deep_r(0.5, **{"learning_rate": 0.1} | options)
