"""Arrays laid out over four devices: the masks of one device, and no leaf is ever gathered."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import sparsejax
from sparsejax.structures import constant_fan_in, nm

pytestmark = pytest.mark.skipif(len(jax.devices()) < 4, reason="needs four devices")
AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit


def mesh_of(axis_type):
    return jax.make_mesh((2, 2), ("a", "b"), axis_types=(axis_type,) * 2)


def put(tree, specs, mesh):
    """Lays out a tree over the mesh."""
    return jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), tree, specs)


REDUCES = ("all-reduce", "reduce-scatter")
MOVES = ("all-gather", "all-to-all", "collective-permute", "collective-broadcast")


def communicated(text, operations):
    """The number of entries of every array that such operations of a compiled program return."""
    names = "|".join(operations)
    found = re.findall(rf"= (.+?) (?:{names})(?:-start)?\(", text)
    shapes = [dims for types in found for dims in re.findall(r"\w+\[([\d,]*)\]", types)]
    return [math.prod(int(n) for n in dims.split(",") if n) for dims in shapes]


def assert_stays_where_it_is(text, smallest_leaf):
    assert communicated(text, MOVES) == []
    assert communicated(text, REDUCES), "nothing was laid out over several devices"
    assert max(communicated(text, REDUCES)) <= smallest_leaf // 8


def lay_out_by_shape(specs, shapes, mesh):
    """A function that lays out what has the shape of a parameter like it, and all else whole.

    On automatic axes the compiler is free to choose the layout of what `init` and a step return; on
    explicit ones nothing must be left to do.
    """
    if mesh.axis_types[0] == EXPLICIT:
        return lambda state: state
    whole = NamedSharding(mesh, P())
    by_shape = {shapes[leaf]: NamedSharding(mesh, spec) for leaf, spec in specs.items()}
    return lambda s: jax.tree.map(lambda x: jax.device_put(x, by_shape.get(x.shape, whole)), s)


def integers(shape, seed=0):
    """Scores with many ties, so that the index of an entry counts."""
    return np.random.default_rng(seed).integers(-40, 40, shape).astype(np.float32)


LAYOUTS = [
    ((784, 300), P(("a", "b"))),
    ((784, 300), P(None, ("a", "b"))),
    ((784, 300), P("b", "a")),
    ((512, 512), P(("a", "b"), None)),
    ((300, 100), P(("a", "b"))),
    ((300, 100), P(None, ("b", "a"))),
    ((3, 3, 16, 32), P(None, None, ("a", "b"))),
    ((3, 3, 16, 32), P(None, None, None, ("a", "b"))),
    ((3, 3, 16, 32), P(None, None, "a", "b")),
    ((1028,), P(("a", "b"))),
]


EACH = [(*layout, AUTO) for layout in LAYOUTS] + [(*layout, EXPLICIT) for layout in LAYOUTS[::3]]


@pytest.mark.parametrize(("shape", "spec", "axis_type"), EACH)
def test_selection_moves_nothing_but_counts(shape, spec, axis_type):
    scores = integers(shape)
    mesh = mesh_of(axis_type)
    with jax.set_mesh(mesh):
        laid_out = put(scores, spec, mesh)
        select = jax.jit(sparsejax.top_k_mask).lower(laid_out, jnp.uint32(7)).compile()
        assert_stays_where_it_is(select.as_text(), scores.size)
        for k in 0, 7, scores.size // 10, scores.size:
            mask = select(laid_out, jnp.uint32(k))
            assert mask.sharding.is_equivalent_to(laid_out.sharding, mask.ndim)
            best = np.argsort(-scores.ravel(), kind="stable")[:k]
            np.testing.assert_array_equal(np.flatnonzero(mask), np.sort(best))


def by_sorting(scores, k):
    rank = jnp.argsort(jnp.argsort(-scores.ravel()))
    return (rank < k).reshape(scores.shape)


def by_a_threshold_from_top_k(scores, k):
    del k
    return scores >= jax.lax.top_k(scores.ravel(), 100)[0][-1]


@pytest.mark.parametrize("select", [by_sorting, by_a_threshold_from_top_k])
def test_the_check_sees_a_selection_that_gathers(select):
    mesh = mesh_of(AUTO)
    scores = put(integers((784, 300)), P(("a", "b")), mesh)
    text = jax.jit(select).lower(scores, jnp.uint32(100)).compile().as_text()
    assert max(communicated(text, MOVES)) >= scores.size
    with pytest.raises(AssertionError):
        assert_stays_where_it_is(text, scores.size)


def test_the_check_sees_a_reduction_of_a_whole_leaf():
    mesh = mesh_of(AUTO)
    x = put(integers((300, 784)), P(None, ("a", "b")), mesh)
    text = jax.jit(lambda x: x @ x.T).lower(x).compile().as_text()
    with pytest.raises(AssertionError):
        assert_stays_where_it_is(text, 300 * 300)


SHAPES = {"dense": (784, 300), "conv": (3, 3, 16, 32), "bias": (100,)}
BY_INPUTS = {"dense": P(("a", "b")), "conv": P(None, None, ("a", "b")), "bias": P()}
BY_OUTPUTS = {
    "dense": P(None, ("a", "b")),
    "conv": P(None, None, None, ("a", "b")),
    "bias": P(("a", "b")),
}
BY_BOTH = {"dense": P("a", "b"), "conv": P(None, None, "b", "a"), "bias": P("a")}
UNIFORM = {"distribution": sparsejax.uniform}
RULES = {
    "rigl": sparsejax.rigl(0.8, period=1),
    "global gmp": sparsejax.gmp(0.8, begin=0, end=2, period=1, distribution=sparsejax.global_),
    "fan-in set": sparsejax.set_(0.8, period=1, structure=constant_fan_in(), **UNIFORM),
    "2:4 gmp": sparsejax.gmp(0.5, begin=0, end=2, period=1, structure=nm(2, 4)),
}
CASES = [
    ("rigl", BY_INPUTS, AUTO),
    ("rigl", BY_BOTH, EXPLICIT),
    ("global gmp", BY_BOTH, EXPLICIT),
    ("fan-in set", BY_OUTPUTS, EXPLICIT),
    # Groups of 4 along the inputs, which are whole on each device where the outputs are split.
    ("2:4 gmp", BY_OUTPUTS, EXPLICIT),
]


def three_updates(rule, params, gradients, lay_out=lambda state: state):
    """The last parameters and state, and the text of the compiled step."""
    tx = sparsejax.sparsify(optax.adam(0.01), rule)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = lay_out(jax.jit(tx.init)(params))
    params = sparsejax.apply_masks(params, sparsejax.get_masks(state))
    compiled = jax.jit(step).lower(params, state, gradients).compile()
    for _ in range(3):
        params, state = lay_out(compiled(params, state, gradients))
    return params, state, compiled.as_text()


@functools.cache
def on_one_device(name):
    tree, gradients = ({n: jnp.asarray(integers(s, i)) for n, s in SHAPES.items()} for i in (1, 2))
    return tree, gradients, three_updates(RULES[name], tree, gradients)


@pytest.mark.parametrize(("name", "specs", "axis_type"), CASES)
def test_an_update_of_the_masks_is_that_of_one_device_and_moves_no_leaf(name, specs, axis_type):
    tree, gradients, (params, state, _) = on_one_device(name)
    mesh = mesh_of(axis_type)
    with jax.set_mesh(mesh):
        params_there, state_there, text = three_updates(
            RULES[name],
            put(tree, specs, mesh),
            put(gradients, specs, mesh),
            lay_out_by_shape(specs, SHAPES, mesh),
        )
    # Rows that lie on one device each need no communication at all, so only the moves are checked.
    assert communicated(text, MOVES) == []
    assert max(communicated(text, REDUCES), default=0) <= 4608 // 8
    masks, masks_there = sparsejax.get_masks(state), sparsejax.get_masks(state_there)
    for leaf in SHAPES:
        np.testing.assert_array_equal(masks[leaf], masks_there[leaf])
        # Here every operation is one by one, so the weights are the same bits too.
        np.testing.assert_array_equal(params[leaf], params_there[leaf])
        wanted = NamedSharding(mesh, specs[leaf])
        for array in params_there[leaf], state_there.inner_state[0].mu[leaf], masks_there[leaf]:
            if array.ndim:
                assert array.sharding.is_equivalent_to(wanted, array.ndim)


X, Y = integers((40, 300), 3) / 40, integers((40, 20), 4) / 40
WHOLE = {"hidden": P(), "bias": P(), "out": P()}
PAIRED = {"hidden": P(None, "b"), "bias": P("b"), "out": P("b", None)}


def network():
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "hidden": jax.random.normal(keys[0], (300, 56)) / 300**0.5,
        "bias": jnp.zeros(56),
        "out": jax.random.normal(keys[1], (56, 20)) / 56**0.5,
    }


def loss(params, x, y):
    x = jax.nn.relu(x @ params["hidden"] + params["bias"])
    return jnp.mean((x @ params["out"] - y) ** 2)


def train(params, x, y, lay_out=lambda state: state):
    """The last parameters, the masks of every step, and the text of the compiled step."""
    tx = sparsejax.sparsify(optax.adam(0.01), sparsejax.rigl(0.8, period=2))

    def step(params, state, x, y):
        updates, state = tx.update(jax.grad(loss)(params, x, y), state, params)
        return optax.apply_updates(params, updates), state

    state = lay_out(jax.jit(tx.init)(params))
    params = sparsejax.apply_masks(params, sparsejax.get_masks(state))
    compiled = jax.jit(step).lower(params, state, x, y).compile()
    masks = []
    for _ in range(7):
        params, state = lay_out(compiled(params, state, x, y))
        masks.append(jax.tree.map(np.asarray, sparsejax.get_masks(state)))
    return params, masks, compiled.as_text()


@functools.cache
def trained_on_one_device():
    return train(network(), jnp.asarray(X), jnp.asarray(Y))


@pytest.mark.parametrize(
    ("specs", "rows", "axis_type"),
    [
        (WHOLE, P(("a", "b")), EXPLICIT),
        (PAIRED, P("a"), AUTO),
    ],
    ids=["batch", "batch and model"],
)
def test_rigl_trains_on_four_devices_as_on_one(specs, rows, axis_type):
    params, masks, _ = trained_on_one_device()
    mesh = mesh_of(axis_type)
    with jax.set_mesh(mesh):
        x, y = put((X, Y), (rows, rows), mesh)
        lay_out = lay_out_by_shape(specs, {n: p.shape for n, p in params.items()}, mesh)
        params_there, masks_there, text = train(put(network(), specs, mesh), x, y, lay_out)
    for one, several in zip(masks, masks_there, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, several)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), params, params_there
    )
    kernels = {params[name].size for name in ("hidden", "out")}
    shards = {n // 2 for n in kernels}
    assert not (kernels | shards) & set(communicated(text, MOVES))
    assert communicated(text, REDUCES)
