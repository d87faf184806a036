"""What every method promises, with every optimizer, structure, wrapper and dtype."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.masks import spread
from tests import optimizers
from tests.methods import METHODS, Method

OPTIMIZERS = {n: f for n, f in optimizers.listed().items() if n not in optimizers.EXCLUDED}
STEPS = 6
# The programs are tiny and run a few times: compiling them is what takes time.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

STRUCTURES = {
    "unstructured": sparsejax.unstructured(),
    "1:4": sparsejax.nm(1, 4),
    "block": sparsejax.block((2, 3)),
    "channel": sparsejax.channel(),
    "constant_fan_in": sparsejax.constant_fan_in(),
    "diagonal": sparsejax.diagonal(),
    "by_path": sparsejax.by_path({"conv/*": sparsejax.channel(), "*/kernel": sparsejax.banded(3)}),
}


def small_params(dtype=jnp.float32):
    kernel = jax.random.normal(jax.random.key(1), (6, 8), dtype)
    return {"dense": {"kernel": kernel, "bias": jnp.ones(8, dtype)}}


def two_layers(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(2))
    return {
        "conv": {"kernel": jax.random.normal(keys[0], (2, 2, 4, 8), dtype)},
        "dense": {
            "kernel": jax.random.normal(keys[1], (8, 12), dtype),
            "bias": jnp.zeros(12, dtype),
        },
    }


def loss_of(params):
    leaves = [x.astype(jnp.float32) for x in jax.tree.leaves(params)]
    return sum(jnp.sum(jnp.sin(3 * x + jnp.arange(x.size).reshape(x.shape))) for x in leaves)


class Run:
    """A short training run; checks after every step what holds after every step."""

    def __init__(self, method: Method, tx, params, nan_off_mask=False):
        self.method, self.tx, self.traces = method, tx, 0
        self.opt_state = tx.init(params)
        self.masks = sparsejax.get_masks(self.opt_state)
        self.params = params
        if not method.straight_through:
            self.params = sparsejax.apply_masks(params, self.masks)

        def step(params, opt_state):
            self.traces += 1
            value, grads = jax.value_and_grad(
                lambda p: loss_of(sparsejax.forward_params(p, opt_state))
            )(params)
            if nan_off_mask:
                masks = sparsejax.get_masks(opt_state)
                grads = jax.tree.map(_poison, grads, masks)
            updates, opt_state = tx.update(
                grads,
                opt_state,
                params,
                value=value,
                grad=grads,
                value_fn=loss_of,
                obj_fn=loss_of,
                grad_fn=jax.grad(loss_of),
            )
            return optax.apply_updates(params, updates), opt_state

        self.step = jax.jit(step, compiler_options=QUICK, donate_argnums=(0, 1))

    def advance(self):
        donated = jax.tree.map(jnp.copy, (self.params, self.opt_state))
        self.params, self.opt_state = self.step(*donated)
        self.masks = sparsejax.get_masks(self.opt_state)
        assert self.traces == 1
        self.check_zeros()

    def check_zeros(self):
        forward = sparsejax.forward_params(self.params, self.opt_state)
        masks = jax.tree.leaves(spread(self.masks, self.params))
        for mask, stored, used in zip(
            masks, *map(jax.tree.leaves, (self.params, forward)), strict=True
        ):
            assert mask.dtype == bool
            off = ~np.broadcast_to(mask, used.shape)
            assert not np.any(np.asarray(used)[off]), "a weight off the mask is not exactly 0"
            if not self.method.straight_through:
                np.testing.assert_array_equal(stored, used)


def _poison(grad, mask):
    """NaN at every second entry off the mask; the others stay candidates for growth."""
    odd = jnp.cumsum(~jnp.broadcast_to(mask, grad.shape)).reshape(grad.shape) % 2 == 1
    return jnp.where(~mask & odd, jnp.nan, grad)


def kept(size, sparsity):
    return round(size * (1 - sparsity))


def check_counts(run, updates):
    """Each layer keeps what the method says, or all of them together do."""
    if run.method.sparsity is None:
        return
    sparsity = run.method.sparsity(updates)
    counted = sparsejax.counts(run.params, run.masks).values()
    assert counted
    numbers, expected = [c.kept for c in counted], [kept(c.total, sparsity) for c in counted]
    if run.method.redistributes:
        numbers, expected = sum(numbers), sum(expected)
    assert numbers == expected


def product(names, columns, some):
    """Every method with the columns that ask most of it; the rest of the table is marked `full`.

    What a method gets from the parts that all share is the same for all, so one that uses each of
    them, RigL, meets every column.
    """
    return [
        pytest.param(
            name, column, marks=() if name == "rigl" or column in some else pytest.mark.full
        )
        for name in names
        for column in columns
    ]


# One optimizer with a leaf for each weight, and one with factors.
KINDS = ("adam", "adafactor")


@pytest.mark.parametrize(
    ("name", "optimizer"),
    product([name for name, m in METHODS.items() if not m.variant], OPTIMIZERS, KINDS),
)
def test_every_optimizer(name, optimizer):
    """Exact zeros, exact counts, one trace; regrown weights are new; NaN off the mask is harmless.

    A straight-through method trains all weights, so there a NaN gradient is one of a weight in use;
    so may be one where a connection comes with the gradient of the same step.
    """
    method = METHODS[name]
    inner = OPTIMIZERS[optimizer]()
    # Where the mask update replaces the gradient step, a regrown weight's first value can be seen.
    tx = method.transform(inner, replace_step=method.moves)
    trains_off_mask = method.straight_through or method.grown_learn
    run = Run(method, tx, small_params(), nan_off_mask=not trains_off_mask)
    regrown = 0
    for updates in range(STEPS + 1):
        before = run.masks["dense"]["kernel"]
        if updates:
            run.advance()
        mask = run.masks["dense"]["kernel"]
        check_counts(run, updates)
        assert bool(run.masks["dense"]["bias"].all())
        if method.moves:
            came = np.asarray(mask & ~before)
            regrown += came.sum()
            check_regrown(inner, run, came)
    assert bool(regrown) == method.moves
    for leaf in jax.tree.leaves(run.params):
        assert np.isfinite(leaf).all()


def check_regrown(inner, run, came):
    """Weights that come back are 0, and their optimizer slots what `init` makes them."""
    assert not np.any(np.asarray(run.params["dense"]["kernel"])[came])
    if not came.any():
        return
    slots = zip(
        jax.tree_util.tree_leaves_with_path(run.opt_state.inner_state),
        jax.tree.leaves(inner.init(run.params)),
        strict=True,
    )
    for (path, slot), new in slots:
        where = jax.tree_util.keystr(path)
        if "['kernel']" in where and jnp.shape(slot)[-2:] == came.shape:
            np.testing.assert_array_equal(
                np.asarray(slot)[..., came], np.asarray(new)[..., came], err_msg=where
            )


@pytest.mark.parametrize("name", optimizers.EXCLUDED)
def test_excluded_optimizers_cannot_work(name):
    """An exception to the table must be one that cannot be helped, and be refused in words."""
    params = small_params()
    try:
        plain = optimizers.listed()[name]()
        plain.update(params, plain.init(params), params)
    except Exception:
        return  # optax fails on it without us
    with pytest.raises(ValueError, match=r"optax\.tree\.map_params failed"):
        sparsejax.sparsify(plain, sparsejax.static(0.5)).init(params)


@pytest.mark.parametrize(
    ("name", "structure"),
    product(
        [name for name, m in METHODS.items() if m.structured],
        STRUCTURES,
        ("1:4", "by_path"),  # which has channels in one of its layers
    ),
)
def test_every_structure(name, structure):
    """Each row of the structure keeps the number of units that was asked for."""
    method = METHODS[name]
    chosen = STRUCTURES[structure]
    run = Run(
        method,
        method.transform(optax.adam(0.1), structure=chosen, distribution=sparsejax.uniform),
        two_layers(),
    )
    for updates in range(STEPS + 1):
        if updates:
            run.advance()
        for layer in ("conv", "dense"):
            check_structure(structure, run.masks[layer]["kernel"], run.params[layer]["kernel"])
            own = chosen.at(f"{layer}/kernel")
            if method.sparsity is not None:
                check_units(own, run.masks[layer]["kernel"], method.sparsity(updates))


def check_structure(structure, mask, param):
    """The pattern itself, without the library's own grouping."""
    full = np.broadcast_to(mask, param.shape)
    if structure == "channel" or (structure == "by_path" and param.ndim > 2):
        assert mask.shape == (1,) * (param.ndim - 1) + param.shape[-1:]
    if structure == "1:4":
        groups = np.moveaxis(full, -2, -1).reshape(-1, 4)
        assert groups.sum(1).min() >= 1
    if structure == "constant_fan_in":
        fan_in = full.reshape(-1, param.shape[-1]).sum(0)
        assert fan_in.min() == fan_in.max()
    if structure == "diagonal":
        m, n = param.shape[-2:]
        for offset in range(n):
            line = full[..., np.arange(m), (np.arange(m) + offset) % n]
            assert (line.all(-1) | ~line.any(-1)).all()
    if structure == "block":
        for i in range(0, param.shape[-2], 2):
            for j in range(0, param.shape[-1], 3):
                tile = full[..., i : i + 2, j : j + 3]
                same = tile.all(axis=(-1, -2)) | ~tile.any(axis=(-1, -2))
                assert same.all()


def check_units(structure, mask, sparsity):
    grouped = np.asarray(structure.group(mask).astype(bool))
    axes = structure.axes(grouped.ndim)
    units = math.prod(grouped.shape[a] for a in axes)
    expected = max(kept(units, sparsity), structure.least)
    np.testing.assert_array_equal(grouped.sum(axis=axes), expected)


@pytest.mark.parametrize(
    ("name", "dtype"), product(METHODS, ("bfloat16", "float16"), ("bfloat16",))
)
def test_low_precision(name, dtype):
    method = METHODS[name]
    tx = method.transform(optax.adamw(0.01), distribution=sparsejax.uniform)
    run = Run(method, tx, two_layers(dtype))
    for updates in range(1, STEPS + 1):
        run.advance()
        assert run.params["dense"]["kernel"].dtype == dtype
        check_counts(run, updates)


def _labels(params):
    return {"conv": "sparse", "dense": jax.tree.map(lambda _: "dense", params["dense"])}


WRAPPERS = {
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx),
    "masked": lambda tx: optax.masked(tx, {"conv": True, "dense": False}),
    "multi_transform": lambda tx: optax.multi_transform(
        {"sparse": tx, "dense": optax.sgd(0.1)}, _labels
    ),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "inject_hyperparams": lambda tx: tx,
}


@pytest.mark.parametrize(("name", "wrapper"), product(METHODS, WRAPPERS, ("MultiSteps",)))
def test_every_wrapper(name, wrapper):
    method = METHODS[name]
    if wrapper == "inject_hyperparams":
        tx = optax.inject_hyperparams(
            lambda learning_rate: method.transform(
                optax.sgd(learning_rate), distribution=sparsejax.uniform
            )
        )(learning_rate=optax.linear_schedule(0.1, 0.0, 10))
    else:
        tx = WRAPPERS[wrapper](method.transform(optax.adam(0.1), distribution=sparsejax.uniform))
    run = Run(method, tx, two_layers())
    every = 2 if wrapper == "MultiSteps" else 1
    for calls in range(1, STEPS + 1):
        run.advance()
        check_counts(run, calls // every)


@pytest.mark.parametrize("name", METHODS)
def test_state_is_arrays_and_masks_hang_on_seed_and_step_alone(name):
    """A state taken to the host and back goes on to the same bits."""
    method = METHODS[name]
    run, again = (Run(method, method.transform(optax.adam(0.1)), two_layers()) for _ in range(2))
    for step in range(STEPS):
        run.advance()
        again.advance()
        if step == 2:
            again.opt_state = jax.tree.map(_through_the_host, again.opt_state)
    for a, b in zip(*(jax.tree.leaves((r.params, r.masks)) for r in (run, again)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(run.opt_state))


def _through_the_host(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(np.asarray(jax.random.key_data(leaf))))
    return jnp.asarray(np.asarray(leaf))


@pytest.mark.parametrize("name", [name for name, m in METHODS.items() if not m.straight_through])
def test_extra_arguments_reach_the_optimizer(name):
    seen = []

    def update(updates, state, params=None, **extra):
        seen.append(extra)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx = METHODS[name].transform(inner)
    params = small_params()
    tx.update(params, tx.init(params), params, value=7.0)
    assert seen[-1] == {"value": 7.0}


DISTRIBUTIONS = {
    "er": sparsejax.er,
    "erk": sparsejax.erk,
    "global_": sparsejax.global_,
}


@pytest.mark.parametrize(
    ("name", "distribution"),
    product([name for name, m in METHODS.items() if m.sparsity], DISTRIBUTIONS, ("global_",)),
)
def test_totals_of_pooled_distributions(name, distribution):
    """However the layers share it, the total is exactly the one asked for."""
    method = METHODS[name]
    tx = method.transform(optax.adam(0.1), distribution=DISTRIBUTIONS[distribution])
    run = Run(method, tx, two_layers())
    for updates in range(STEPS + 1):
        if updates:
            run.advance()
        counted = sparsejax.counts(run.params, run.masks).values()
        total = sum(c.kept for c in counted)
        assert total == kept(128 + 96, method.sparsity(updates))


def test_the_table_has_every_algorithm():
    """No public algorithm is without its row."""
    made = {name.split(" ")[0] for name in METHODS}
    public = {
        name
        for name in sparsejax.__all__
        if getattr(getattr(sparsejax, name), "__module__", "").startswith("sparsejax.algorithms.")
    }
    assert {name.rstrip("_") for name in public} == made


def test_a_foreign_rule_needs_no_more_than_masks():
    """A transformation with `masks` in its state is a rule, whatever else it keeps."""

    class State(NamedTuple):
        masks: Any

    def update(updates, state, params=None):
        return updates, State(jax.tree.map(jnp.logical_not, state.masks))

    alternating = optax.GradientTransformation(
        lambda params: State({"w": jnp.array([True, False])}), update
    )
    tx = sparsejax.sparsify(optax.sgd(0.1, momentum=0.9), alternating)
    params = {"w": jnp.array([3.0, 0.0])}
    state = tx.init(params)
    for kept in (1, 0, 1):
        updates, state = tx.update({"w": jnp.ones(2)}, state, params)
        params = optax.apply_updates(params, updates)
        assert float(params["w"][1 - kept]) == 0
        # Each time the weight is a new one, at 0 and without momentum.
        np.testing.assert_allclose(params["w"][kept], -0.1, rtol=1e-5)


def test_a_rule_passes_updates_through_and_wants_parameters():
    rule = sparsejax.rigl(0.5)
    params = small_params()
    state = rule.init(params)
    updates, _ = rule.update(params, state, params)
    assert updates is params
    with pytest.raises(ValueError, match="needs the parameters"):
        rule.update(params, state)
    tx = sparsejax.sparsify(optax.sgd(0.1), rule)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(params, tx.init(params))
