"""Packed training against masked training, and what it keeps in memory."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax import packed
from sparsejax.kernels import sparse_matmul

SIZES = 12, 20, 5
RULES = {
    "rigl": lambda: sparsejax.rigl(0.8, period=3, drop_fraction=0.5),
    "set": lambda: sparsejax.set_(0.8, period=3, drop_fraction=0.5),
    "static": lambda: sparsejax.static(0.8),
    "rigl, 2 inputs a neuron": lambda: sparsejax.rigl(
        0.8, period=2, structure=sparsejax.constant_fan_in(), distribution=sparsejax.uniform
    ),
}


def network(p, x):
    x = jax.nn.relu(sparse_matmul(x, p["a"]["kernel"]) + p["a"]["bias"])
    return sparse_matmul(x, p["b"]["kernel"]) + p["b"]["bias"]


def problem():
    rng = np.random.default_rng(0)
    params = {
        name: {"kernel": rng.normal(size=size) / 3, "bias": np.zeros(size[1])}
        for name, size in zip("ab", itertools.pairwise(SIZES), strict=True)
    }
    x, y = rng.normal(size=(16, SIZES[0])), rng.integers(0, SIZES[-1], 16)
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)

    def loss(p):
        logits = network(p, jnp.asarray(x, jnp.float32))
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return params, loss


def train_masked(inner, rule, replace_step, steps):
    params, loss = problem()
    tx = sparsejax.sparsify(inner, rule, replace_step=replace_step)
    state = tx.init(params)
    params = sparsejax.apply_masks(params, sparsejax.get_masks(state))

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize(
    ("rule", "replace_step"),
    [
        ("rigl", False),
        ("rigl", True),
        ("set", False),
        ("static", False),
        ("rigl, 2 inputs a neuron", True),
        pytest.param("set", True, marks=pytest.mark.full),
        pytest.param("static", True, marks=pytest.mark.full),
        pytest.param("rigl, 2 inputs a neuron", False, marks=pytest.mark.full),
    ],
)
def test_masks_are_those_of_masked_training_and_parameters_are_as_near_as_rounding(
    rule, replace_step
):
    inner = optax.chain(optax.add_decayed_weights(1e-3), optax.adam(0.02))
    params, state = train_masked(inner, RULES[rule](), replace_step, 10)
    trainer = packed.packed(inner, RULES[rule](), replace_step=replace_step)
    start, loss = problem()
    got = trainer.init(start)
    step = jax.jit(lambda state: trainer.step(state, loss)[0])
    for _ in range(10):
        got = step(got)
    assert step._cache_size() == 1
    masks = sparsejax.get_masks(state)
    for mine, theirs in zip(leaves(got.masks()), leaves(masks), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for mine, theirs in zip(leaves(got.params()), leaves(params), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-6)
    moments = optax.tree.get(state, "nu")
    for mine, theirs in zip(
        leaves(packed.unpack(optax.tree.get(got.inner_state, "nu"), got.topology)),
        leaves(sparsejax.apply_masks(moments, masks)),
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-8)
    first = trainer.init(start).masks()["a"]["kernel"]
    assert np.array_equal(got.masks()["a"]["kernel"], first) == (rule == "static")


def test_a_scan_trains_like_a_loop_and_hands_out_what_the_loss_returns():
    start, loss = problem()
    trainer = packed.packed(optax.sgd(0.1, momentum=0.9), RULES["rigl"](), replace_step=True)

    def with_aux(p):
        return loss(p), {"first": p["b"]["bias"][0]}

    def body(state, _):
        return trainer.step(state, with_aux, has_aux=True)

    scanned, (losses, aux) = jax.jit(lambda s: jax.lax.scan(body, s, length=7))(trainer.init(start))
    state = trainer.init(start)
    step = jax.jit(lambda state: trainer.step(state, loss))
    for i in range(7):
        np.testing.assert_allclose(aux["first"][i], state.values["b"]["bias"][0], atol=1e-6)
        state, value = step(state)
        np.testing.assert_allclose(losses[i], value, atol=1e-6)
    for a, b in zip(leaves(scanned.params()), leaves(state.params()), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert int(scanned.rule_state.count) == 7


def test_state_is_a_sixth_of_the_dense_one_at_90_percent():
    params = {"kernel": jnp.ones((512, 512)), "bias": jnp.ones(512)}
    inner = optax.adam(1e-3)
    state = packed.packed(inner, sparsejax.rigl(0.9, distribution=sparsejax.uniform)).init(params)

    def size(tree):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

    dense = size((params, inner.init(params)))
    assert size(state._replace(rule_state=())) <= 0.18 * dense
    assert size(state.topology) < 8.5 * state.values["kernel"].size


def test_a_static_network_is_never_made_dense():
    start, loss = problem()
    trainer = packed.packed(optax.adam(0.02), RULES["static"]())
    step = jax.jit(lambda state: trainer.step(state, loss))
    text = step.lower(trainer.init(start)).compile().as_text()
    for rows, columns in itertools.pairwise(SIZES):
        assert f"[{rows},{columns}]" not in text
        assert f"[{rows * columns}]" not in text


@pytest.mark.parametrize("rule", ["set", "rigl"])
def test_a_dense_gradient_is_computed_where_the_rule_asks_for_one(rule):
    start, loss = problem()
    trainer = packed.packed(optax.adam(0.02), RULES[rule](), replace_step=True)
    step = jax.jit(lambda state: trainer.step(state, loss))
    # All products with sparse matrices are calls of the kernels.
    assert (" dot(" in step.lower(trainer.init(start)).compile().as_text()) == (rule == "rigl")


SHAPES = (7,), (1, 9), (9, 1), (5, 300), (3, 3, 4, 6), (0, 4)


@pytest.mark.parametrize(
    ("shape", "density"),
    [
        pytest.param(shape, d, marks=() if d == 0.4 or shape == (5, 300) else pytest.mark.full)
        for shape in SHAPES
        for d in (0.0, 0.4, 1.0)
    ],
)
def test_places_hold_what_is_on_a_mask(shape, density):
    rng = np.random.default_rng(1)
    mask = rng.random(shape) < density
    array = jnp.asarray(rng.normal(size=shape), jnp.bfloat16)
    places = packed.places_of(jnp.asarray(mask))
    assert places.count == mask.sum()
    np.testing.assert_array_equal(places.mask(), mask)
    values = places.gather(array)
    assert values.dtype == jnp.bfloat16
    np.testing.assert_array_equal(values, np.asarray(array)[mask])
    np.testing.assert_array_equal(places.scatter(values), np.where(mask, array, 0))
    np.testing.assert_array_equal(places.weights(values).todense(), np.where(mask, array, 0))


@pytest.mark.parametrize("shape", [(50_000, 2), (2, 50_000), (70_000, 2)])
def test_products_reach_the_last_of_many_neurons(shape):
    rng = np.random.default_rng(3)
    mask = np.zeros(shape, bool)
    mask[-3:, -3:] = True
    w, x = rng.normal(size=shape).astype(np.float32), rng.normal(size=(8, shape[0]))
    dy = jnp.asarray(rng.normal(size=(8, shape[1])), jnp.float32)
    places = packed.places_of(jnp.asarray(mask))

    def product(x, values):
        return sparse_matmul(x, places.weights(values))

    y, back = jax.vjp(product, jnp.asarray(x, jnp.float32), places.gather(jnp.asarray(w)))
    dx, dvalues = back(dy)
    kept = np.where(mask, w, 0)
    np.testing.assert_allclose(y, x @ kept, atol=1e-5)
    np.testing.assert_allclose(dx, np.asarray(dy) @ kept.T, atol=1e-5)
    np.testing.assert_allclose(dvalues, (x.T @ np.asarray(dy))[mask], atol=1e-4)


@pytest.mark.parametrize("missing", [0, 3])
def test_places_are_the_same_without_the_kernels(monkeypatch, missing):
    mask = np.random.default_rng(2).random((6, 8)) < 0.3
    count = int(mask.sum()) - missing  # of more, the first are taken
    by_kernel = packed.places_of(jnp.asarray(mask), count)
    monkeypatch.setattr("sparsejax.packed.places.why_not", lambda *_: "not here")
    by_jax = packed.places_of(jnp.asarray(mask), count)
    first = np.flatnonzero(mask)[:count]
    np.testing.assert_array_equal(by_jax.flat(), first)
    np.testing.assert_array_equal(by_jax.mask().ravel().nonzero()[0], first)
    for a, b in zip(leaves(by_kernel), leaves(by_jax), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_a_count_that_changes_is_seen():
    start, loss = problem()
    rule = sparsejax.mest(0.8, period=2, soft=True, drop_fraction=0.5)
    trainer = packed.packed(optax.adam(0.02), rule)
    state = trainer.init(start)
    step = jax.jit(lambda state: trainer.step(state, loss))
    for _ in range(4):
        state, _ = step(state)
    assert np.isnan(state.values["a"]["kernel"]).all()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda: sparsejax.deep_r(0.8, learning_rate=0.1), "passes gradients on as they are"),
        (
            lambda: optax.masked(sparsejax.rigl(0.8), lambda p: jax.tree.map(lambda _: True, p)),
            "takes a mask rule alone",
        ),
        (
            functools.partial(sparsejax.static, 0.5, structure=sparsejax.channel()),
            r"a/kernel: a mask of shape \(1, 20\) cannot be packed",
        ),
    ],
)
def test_what_cannot_be_packed_is_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        packed.packed(optax.adam(0.02), rule()).init(problem()[0])
