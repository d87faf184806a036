"""ITOP: the masks of RigL and SET, and what they have explored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.metrics import explored
from tests.algorithms import oracle

STEPS = 8


@pytest.mark.parametrize(
    ("itop", "plain"),
    [
        (sparsejax.rigl_itop, lambda s, **o: sparsejax.rigl(s, **o)),
        (
            sparsejax.set_itop,
            # The fraction falls along half a cosine.
            lambda s, **o: sparsejax.set_(
                s,
                **o | {"drop_fraction": lambda t: 0.25 * (1 + jnp.cos(jnp.pi * t / 6))},
            ),
        ),
    ],
)
def test_masks_are_those_of_the_plain_rule_and_all_are_remembered(itop, plain):
    rng = np.random.default_rng(0)
    params = {"a": jnp.asarray(rng.normal(size=(10, 8))), "b": jnp.asarray(rng.normal(size=(8, 4)))}
    grads = {n: rng.normal(size=(STEPS, *p.shape)).astype(np.float32) for n, p in params.items()}
    options = {"period": 2, "end": 6, "drop_fraction": 0.5, "distribution": sparsejax.erk}

    def history(rule):
        def step(state, grads):
            _, state = rule.update(grads, state, params)
            return state, sparsejax.get_masks(state)

        run = oracle.quick_jit(lambda: jax.lax.scan(step, rule.init(params), grads))
        return rule.init(params), *run()

    first, last, masks = history(itop(0.8, **options))
    _, _, expected = history(plain(0.8, **options))
    ever = {n: np.array(m) for n, m in sparsejax.get_masks(first).items()}
    start = sum(m.sum() for m in ever.values())
    assert explored(params, first) == start / 112
    for n in params:
        np.testing.assert_array_equal(masks[n], expected[n])
        ever[n] |= np.asarray(masks[n]).any(0)
    count = sum(m.sum() for m in ever.values())
    assert count > start
    assert explored(params, last) == count / 112


def test_a_rule_that_does_not_remember_is_told():
    params = {"w": jnp.ones((4, 4))}
    with pytest.raises(ValueError, match="see record_explored"):
        explored(params, sparsejax.rigl(0.5).init(params))
