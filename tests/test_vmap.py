"""Many runs at once: vmap over seeds and sparsities is the separate runs, compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.structures import constant_fan_in

STEPS = 5
SEEDS = jnp.array([0, 1, 2, 7], jnp.uint32)
SPARSITIES = jnp.array([0.5, 0.75, 0.9, 0.313], jnp.float32)
# The traced learning rate and drop fraction of each run.
RATES = jnp.array([0.01, 0.03, 0.01, 0.003], jnp.float32)
DROPS = jnp.array([0.3, 0.1, 0.5, 0.7], jnp.float32)

METHODS = {
    "static": lambda seed, sparsity, drop: sparsejax.static(
        sparsity, seed=seed, distribution=sparsejax.erk
    ),
    "set": lambda seed, sparsity, drop: sparsejax.set_(
        sparsity, seed=seed, period=2, drop_fraction=drop
    ),
    "rigl": lambda seed, sparsity, drop: sparsejax.rigl(
        sparsity, seed=seed, period=2, end=4, drop_fraction=drop
    ),
    "rigl, fan-in": lambda seed, sparsity, drop: sparsejax.rigl(
        sparsity,
        seed=seed,
        period=2,
        drop_fraction=drop,
        distribution=sparsejax.uniform,
        structure=constant_fan_in(),
    ),
    "gmp": lambda seed, sparsity, drop: sparsejax.gmp(
        sparsity, begin=1, end=4, period=2, seed=seed
    ),
    "gmp, global": lambda seed, sparsity, drop: sparsejax.gmp(
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


def assert_equal_runs(several, single, i):
    params, masks = jax.tree.map(lambda x: x[i], several)
    jax.tree.map(np.testing.assert_array_equal, masks, single[1])
    # A product over many runs sums in another order than that of one.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), params, single[0]
    )
    # Zeros are exact in both.
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a == 0, b == 0), params, single[0])


@pytest.mark.parametrize("name", METHODS)
def test_runs_at_once_equal_separate_runs(name):
    traces = []
    run = run_of(name, traces)
    hyperparameters = (SEEDS, SPARSITIES, RATES, DROPS)
    several = jax.jit(jax.vmap(run))(*hyperparameters)
    assert len(traces) == 1
    alone = jax.jit(run)
    for i, one in enumerate(zip(*hyperparameters, strict=True)):
        assert_equal_runs(several, alone(*one), i)
    assert len(traces) == 2


def test_a_grid_of_seeds_and_sparsities_is_two_vmaps_and_one_trace():
    traces = []
    run = run_of("rigl", traces)
    over_seeds = jax.vmap(run, (0, None, None, None))
    grid = jax.jit(jax.vmap(over_seeds, (None, 0, None, None)))
    _, masks = grid(SEEDS[:3], SPARSITIES[:2], 0.01, 0.3)
    assert len(traces) == 1
    kernels = masks["hidden"]["kernel"], masks["out"]["kernel"]
    kept = sum(np.asarray(m).sum((-1, -2)) for m in kernels)
    assert kept.shape == (2, 3, STEPS)
    assert (kept[0] == 84).all()  # half of 10 × 12 + 12 × 4 entries
    assert (kept[1] == 42).all()  # a quarter
    first = np.asarray(kernels[0])[0, :, 0]
    assert (first[0] != first[1]).any()
    assert (first[1] != first[2]).any()


@pytest.mark.parametrize(("name", "sparsity"), [("rigl", 0.9), ("gmp", 0.313)])
def test_a_traced_sparsity_gives_the_counts_of_a_python_number(name, sparsity):
    def counts(sparsity):
        _, masks = run_of(name, [])(3, sparsity, 0.01, 0.3)
        return jax.tree.map(lambda m: np.asarray(m).sum(tuple(range(1, m.ndim))).tolist(), masks)

    assert counts(sparsity) == counts(jnp.float32(sparsity))
