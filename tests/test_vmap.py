"""Many runs at once: vmap over seeds and sparsities is the separate runs, compiled once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import sparsejax
from sparsejax.structures import constant_fan_in

STEPS = 5
# A grid of runs: each seed has its learning rate and each sparsity its drop fraction, all traced.
SEEDS, RATES = jnp.array([1, 7], jnp.uint32), jnp.array([0.01, 0.003], jnp.float32)
SPARSITIES, DROPS = jnp.array([0.9, 0.313], jnp.float32), jnp.array([0.3, 0.7], jnp.float32)

METHODS = {
    "static": lambda seed, sparsity, drop: sparsejax.static(
        sparsity, seed=seed, distribution=sparsejax.erk
    ),
    "set": lambda seed, sparsity, drop: sparsejax.set_(
        sparsity,
        seed=seed,
        period=2,
        drop_fraction=drop,
        distribution=sparsejax.uniform,
        structure=constant_fan_in(),
    ),
    "rigl": lambda seed, sparsity, drop: sparsejax.rigl(
        sparsity, seed=seed, period=2, end=4, drop_fraction=drop
    ),
    "gmp": lambda seed, sparsity, drop: sparsejax.gmp(
        sparsity, begin=1, end=4, period=2, distribution=sparsejax.global_
    ),
    "ste": lambda seed, sparsity, drop: sparsejax.ste_magnitude(sparsity),
}

X = jax.random.randint(jax.random.key(0), (16, 10), -3, 4).astype(jnp.float32)
Y = jax.random.randint(jax.random.key(1), (16, 4), -3, 4).astype(jnp.float32)


def forward(params, x):
    x = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return x @ params["out"]["kernel"]


def loss(params, opt_state):
    return jnp.mean((forward(sparsejax.forward_params(params, opt_state), X) - Y) ** 2)


def run_of(name, traces):
    """A whole training run as a function of its hyperparameters."""

    def run(seed, sparsity, rate, drop):
        traces.append(None)
        rule = METHODS[name](seed, sparsity, drop)
        tx = optax.chain(optax.adam(rate), rule)
        if name != "ste":
            tx = sparsejax.sparsify(optax.adam(rate), rule)
        keys = jax.random.split(jax.random.key(seed), 2)
        params = {
            "hidden": {"kernel": jax.random.normal(keys[0], (10, 12)), "bias": jnp.zeros(12)},
            "out": {"kernel": jax.random.normal(keys[1], (12, 4))},
        }
        state = tx.init(params)
        if name != "ste":
            params = sparsejax.apply_masks(params, sparsejax.get_masks(state))

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, state), state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), sparsejax.get_masks(state)

        (params, _), masks = jax.lax.scan(step, (params, state), length=STEPS)
        return params, masks

    return run


@pytest.mark.parametrize("name", METHODS)
def test_a_grid_of_runs_equals_separate_runs_and_is_traced_once(name):
    traces = []
    run = run_of(name, traces)
    over_seeds = jax.vmap(run, (0, None, 0, None))
    grid = jax.jit(jax.vmap(over_seeds, (None, 0, None, 0)))
    params, masks = grid(SEEDS, SPARSITIES, RATES, DROPS)
    assert len(traces) == 1
    alone = jax.jit(run)
    for i, j in np.ndindex(2, 2):
        single_params, single_masks = alone(SEEDS[j], SPARSITIES[i], RATES[j], DROPS[i])
        here, masks_here = jax.tree.map(lambda x, i=i, j=j: x[i, j], (params, masks))
        jax.tree.map(assert_array_equal, masks_here, single_masks)
        # A product over several runs sums in another order than that of one; zeros are exact.
        jax.tree.map(functools.partial(assert_allclose, rtol=1e-4, atol=1e-5), here, single_params)
        zeros, single_zeros = (jax.tree.map(lambda p: p == 0, p) for p in (here, single_params))
        jax.tree.map(assert_array_equal, zeros, single_zeros)
    assert len(traces) == 2


@pytest.mark.parametrize(("name", "differ"), [("static", True), ("ste", False)])
def test_a_seed_changes_what_is_random_and_nothing_else(name, differ):
    params = {"w": jnp.arange(1.0, 201.0).reshape(20, 10)}
    masks = jax.jit(
        jax.vmap(lambda seed: sparsejax.get_masks(METHODS[name](seed, 0.9, 0.3).init(params)))
    )(jnp.arange(3))["w"]
    assert (np.asarray(masks).sum((1, 2)) == 20).all()
    assert bool((masks[0] != masks[1]).any() and (masks[1] != masks[2]).any()) == differ
