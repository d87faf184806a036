"""Pruning layer by layer without retraining, against the same written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax

SPARSITIES = (0.0, 0.25, 0.9, 1.0)


@pytest.fixture
def params():
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "a": {"kernel": jax.random.normal(keys[0], (4, 5)), "bias": jnp.ones(5)},
        "b": {"kernel": 3 * jax.random.normal(keys[1], (5, 8))},
    }


def _without_smallest(kernel, sparsity):
    flat = np.array(kernel).ravel()
    flat[np.argsort(abs(flat))[: round(flat.size * sparsity)]] = 0
    return flat.reshape(kernel.shape)


def test_one_layer_is_pruned_and_the_others_stay(params):
    table = list(sparsejax.sensitivity(lambda p: p, params, SPARSITIES))
    layers = ("a/kernel", "b/kernel", None)
    assert [(p.layer, p.sparsity) for p in table] == [(n, s) for n in layers for s in SPARSITIES]
    for layer, sparsity, got in table:
        for name in ("a", "b"):
            wanted = params[name]["kernel"]
            if layer in (None, f"{name}/kernel"):
                wanted = _without_smallest(wanted, sparsity)
            np.testing.assert_array_equal(got[name]["kernel"], wanted)
        np.testing.assert_array_equal(got["a"]["bias"], params["a"]["bias"])


def test_all_together_share_one_budget(params):
    *_, (layer, _, got) = sparsejax.sensitivity(
        lambda p: p, params, [0.5], distribution=sparsejax.global_
    )
    kept = {name: int((got[name]["kernel"] != 0).sum()) for name in ("a", "b")}
    assert layer is None
    assert sum(kept.values()) == 30
    flat = np.concatenate([np.ravel(params[name]["kernel"]) for name in ("a", "b")])
    assert kept["a"] == (abs(np.ravel(params["a"]["kernel"])) >= np.sort(abs(flat))[30]).sum() != 10


def test_any_scores_may_rank(params):
    scores = jax.tree.map(lambda p: -abs(p), params)  # the largest go first
    got = next(sparsejax.sensitivity(lambda p: p, params, [0.75], scores=scores)).value
    kernel, left = (np.abs(np.ravel(tree["a"]["kernel"])) for tree in (params, got))
    np.testing.assert_array_equal(np.sort(left)[15:], np.sort(kernel)[:5])


def test_measurements_are_made_one_by_one_with_one_compilation(params):
    traces, calls = [], []

    @jax.jit
    def norm(p):
        traces.append(1)
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(p))

    def evaluate(p):
        calls.append(1)
        return float(norm(p))

    table = sparsejax.sensitivity(evaluate, params, SPARSITIES)
    assert not calls
    values = [next(table).value for _ in SPARSITIES]
    assert len(calls) == len(SPARSITIES)
    assert values == sorted(values, reverse=True)
    list(table)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("tree", "sparsities", "message"),
    [
        ({"w": jnp.ones((2, 2))}, [0.5, 1.5], "sparsity must lie between 0 and 1, got 1.5"),
        ({"b": jnp.ones(2)}, [0.5], "no parameter is prunable"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_measured(tree, sparsities, message):
    with pytest.raises(ValueError, match=message):
        sparsejax.sensitivity(pytest.fail, tree, sparsities)
