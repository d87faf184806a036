"""Mask trees: applying them, learning behind them, finding them in a state, counting them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.masks import (
    apply_masks,
    counts,
    default_prunable,
    dense_masks,
    forward_params,
    get_masks,
    straight_through,
)


def net(**more):
    return {"kernel": jnp.arange(1.0, 17.0).reshape(4, 4), "bias": jnp.ones(4), **more}


def kept(masks):
    return jax.tree.map(lambda m: int(m.sum()), masks)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_what_a_mask_prunes_is_plus_zero_whatever_it_was(dtype):
    values = jnp.array([[jnp.nan, jnp.inf, -jnp.inf, -0.0, -3.0], [jnp.nan, jnp.inf, 2, -0.0, 1]])
    params = {"w": values.astype(dtype)}
    mask = jnp.array([[False] * 5, [True] * 5])
    pruned = apply_masks(params, {"w": mask})["w"]
    assert pruned.dtype == dtype
    bits = np.asarray(pruned).view(np.uint32 if dtype == jnp.float32 else np.uint16)
    wanted = np.asarray(params["w"]).view(bits.dtype)
    np.testing.assert_array_equal(bits[0], 0)
    np.testing.assert_array_equal(bits[1], wanted[1])


@pytest.mark.parametrize("apply", [apply_masks, straight_through])
def test_a_mask_may_broadcast_or_stand_for_a_whole_subtree(apply):
    params = {"a": net(), "b": net(), "c": [jnp.ones(3), (jnp.ones(2),)]}
    channels = jnp.array([[True, False, True, False]])
    masks = {"a": {"kernel": channels, "bias": True}, "b": jnp.array(True), "c": [False, True]}
    pruned = apply(params, masks)
    assert jax.tree.structure(pruned) == jax.tree.structure(params)
    np.testing.assert_array_equal(pruned["a"]["kernel"][:, 1::2], 0)
    np.testing.assert_array_equal(pruned["a"]["kernel"][:, ::2], params["a"]["kernel"][:, ::2])
    np.testing.assert_array_equal(pruned["b"]["kernel"], params["b"]["kernel"])
    assert pruned["c"][0].tolist() == [0, 0, 0]
    assert pruned["c"][1][0].tolist() == [1, 1]
    np.testing.assert_array_equal(apply(net(), True)["kernel"], net()["kernel"])


def test_masks_of_another_structure_are_refused():
    with pytest.raises(ValueError, match="kernel"):
        apply_masks(net(), {"kernel": True})


def test_dense_masks_keep_everything_of_what_is_prunable():
    masks = dense_masks(net())
    assert masks["kernel"].shape == (4, 4)
    assert masks["bias"].shape == ()
    assert all(m.dtype == bool and m.all() for m in jax.tree.leaves(masks))
    assert dense_masks(net(), lambda path, leaf: path == "bias")["bias"].shape == (4,)


@pytest.mark.parametrize(
    ("path", "shape", "dtype", "wanted"),
    [
        ("Dense_0/kernel", (3, 4), jnp.float32, True),
        ("Conv_0/kernel", (3, 3, 3, 4), jnp.bfloat16, True),
        ("Dense_0/bias", (4,), jnp.float32, False),
        ("layers/0/bias", (4, 1, 1), jnp.float32, False),
        ("scale", (), jnp.float32, False),
        ("Dense_0/kernel", (3, 4), jnp.int8, False),
        ("Embed_0/embedding", (30, 4), jnp.float32, False),
        ("token_EMBEDDER/kernel", (30, 4), jnp.float32, False),
        ("LayerNorm_0/scale", (1, 4), jnp.float32, False),
    ],
)
def test_what_is_prunable(path, shape, dtype, wanted):
    assert default_prunable(path, jnp.zeros(shape, dtype)) is wanted


MASK = jnp.array([[True, False], [False, True]])


def cubed(w):
    return jnp.sum(straight_through({"w": w}, {"w": MASK})["w"] ** 3)


def test_straight_through_has_the_value_of_the_pruned_and_the_gradient_of_the_dense():
    w = jnp.array([[2.0, jnp.nan], [5.0, 3.0]])
    value, slope = jax.jit(jax.value_and_grad(cubed))(w)
    assert value == 2.0**3 + 3.0**3
    # d(q³)/dq = 3 q² at the pruned values q, handed on as it is.
    assert slope.tolist() == [[12.0, 0.0], [0.0, 27.0]]
    linear = jax.grad(lambda w: jnp.sum(7 * straight_through({"w": w}, {"w": MASK})["w"]))(w)
    assert linear.tolist() == [[7.0, 7.0], [7.0, 7.0]]


def test_straight_through_has_a_second_order():
    w = jnp.array([[2.0, 4.0], [5.0, 3.0]])
    hessian = jax.hessian(cubed)(w).reshape(4, 4)
    np.testing.assert_array_equal(hessian, np.diag([12.0, 0.0, 0.0, 18.0]))
    ones = jnp.ones((2, 2))
    _, product = jax.jvp(jax.grad(cubed), (w,), (ones,))
    np.testing.assert_array_equal(product, [[12.0, 0.0], [0.0, 18.0]])


def test_straight_through_under_vmap_over_weights_and_masks():
    ws = jax.random.normal(jax.random.key(0), (3, 2, 2))
    masks = jnp.stack([MASK, ~MASK, jnp.ones_like(MASK)])

    def loss(w, m):
        return jnp.sum(jnp.sin(straight_through(w, m)))

    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(loss)))(ws, masks)
    for w, m, value, slope in zip(ws, masks, values, slopes, strict=True):
        np.testing.assert_allclose(value, jnp.sum(jnp.where(m, jnp.sin(w), 0)), rtol=1e-6)
        np.testing.assert_allclose(slope, jnp.where(m, jnp.cos(w), 1), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_straight_through_keeps_types_and_broadcasts(dtype):
    params = {"w": jnp.ones((2, 3), dtype), "b": jnp.ones(3, dtype)}
    masks = {"w": jnp.array([[True, False, True]]), "b": jnp.array(True)}

    def loss(p):
        return sum(x.sum() for x in jax.tree.leaves(straight_through(p, masks)))

    value, slope = jax.value_and_grad(loss)(params)
    assert value == 7
    assert slope["w"].dtype == dtype
    assert slope["w"].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert slope["b"].tolist() == [1, 1, 1]


RULE = sparsejax.static(0.5)
SPARSE = sparsejax.sparsify(optax.adam(0.1), RULE)
LABELS = {"a": {"kernel": "x", "bias": "x"}, "b": {"kernel": "y", "bias": "y"}}


@pytest.mark.parametrize(
    "tx",
    [
        RULE,
        SPARSE,
        optax.chain(optax.clip(1.0), SPARSE, optax.scale(1.0)),
        optax.chain(optax.adam(0.1), optax.chain(optax.add_decayed_weights(0.1), RULE)),
        optax.MultiSteps(SPARSE, 2),
        optax.apply_if_finite(SPARSE, 3),
        optax.masked(SPARSE, {"kernel": True, "bias": False}),
        optax.masked(SPARSE, lambda params: jax.tree.map(lambda p: p.ndim > 1, params)),
        optax.inject_hyperparams(lambda sparsity: sparsejax.static(sparsity))(sparsity=0.5),
        optax.inject_hyperparams(
            lambda learning_rate: sparsejax.sparsify(optax.sgd(learning_rate), RULE)
        )(learning_rate=0.1),
    ],
)
def test_masks_are_found_wherever_the_rule_lies(tx):
    params = net()
    state = tx.init(params)
    for _ in range(2):
        masks = get_masks(state)
        assert jax.tree.structure(masks) == jax.tree.structure(params)
        assert kept(masks) == {"kernel": 8, "bias": 1}
        assert masks["bias"].shape == ()
        params = apply_masks(params, masks)
        updates, state = tx.update(params, state, params)
        params = optax.apply_updates(params, updates)


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        lambda params: LABELS,
        {"a": "x", "b": "y"},
    ],
)
def test_masks_of_several_rules_are_put_together(labels):
    tx = optax.multi_transform(
        {
            "x": sparsejax.sparsify(optax.sgd(0.1), sparsejax.static(0.5)),
            "y": optax.chain(optax.adam(0.1), sparsejax.ste_magnitude(0.75)),
        },
        labels,
    )
    params = {"a": net(), "b": net()}
    state = tx.init(params)
    for _ in range(2):
        masks = get_masks(state)
        assert jax.tree.structure(masks) == jax.tree.structure(params)
        assert kept(masks) == {"a": {"kernel": 8, "bias": 1}, "b": {"kernel": 4, "bias": 1}}
        assert counts(params, masks) == {"a/kernel": (8, 16), "b/kernel": (4, 16)}
        pruned = apply_masks(params, masks)
        np.testing.assert_array_equal(pruned["b"]["kernel"] != 0, masks["b"]["kernel"])
        updates, state = tx.update(params, state, params)
        params = optax.apply_updates(params, updates)


def test_parameters_that_no_rule_knows_are_dense():
    params = {"a": net(), "b": {"deep": net()}, "c": None}
    for labels in (
        {"a": "x", "b": "y", "c": "y"},
        {"a": "x", "b": {"deep": {"kernel": "y", "bias": "x"}}, "c": None},
    ):
        tx = optax.multi_transform({"x": SPARSE, "y": optax.sgd(0.1)}, labels)
        masks = get_masks(tx.init(params))
        assert kept(masks["a"]) == {"kernel": 8, "bias": 1}
        pruned = apply_masks(params, masks)
        assert jax.tree.structure(pruned) == jax.tree.structure(params)
        np.testing.assert_array_equal(pruned["b"]["deep"]["kernel"], net()["kernel"])
        assert counts(params, masks) == {"a/kernel": (8, 16)}


def test_two_rules_for_one_parameter_are_refused():
    params = {"a": net()}
    state = optax.chain(RULE, SPARSE).init(params)
    with pytest.raises(ValueError, match="two rules hold a mask of the parameter 'a/"):
        get_masks(state)


def test_a_state_without_masks_is_refused():
    with pytest.raises(ValueError, match="there are no masks in this optimizer state"):
        get_masks(optax.adam(0.1).init(net()))
    with pytest.raises(ValueError, match="there are no masks in this optimizer state"):
        get_masks(optax.adam(0.1).init(net(masks=jnp.ones((2, 2)))))


class Inner(NamedTuple):
    kernel: jax.Array


@pytest.mark.parametrize("wrap", [lambda tx: tx, lambda tx: optax.MultiSteps(tx, 2)])
def test_parameters_may_be_called_masks_too(wrap):
    params = net(masks={"masks": jnp.ones((2, 2)), "mask_state": Inner(jnp.ones((2, 4)))})
    state = wrap(SPARSE).init(params)
    masks = get_masks(state)
    assert jax.tree.structure(masks) == jax.tree.structure(params)
    assert kept(masks)["masks"] == {"masks": 2, "mask_state": Inner(4)}
    behind = wrap(optax.chain(optax.sgd(0.1), sparsejax.ste_magnitude(0.5)))
    seen = forward_params(params, behind.init(params))
    assert (seen["masks"]["masks"] != 0).sum() == 2


def test_the_forward_pass_of_each_kind_of_method():
    params = net()
    assert forward_params(params, optax.chain(SPARSE).init(params)) is params
    state = optax.MultiSteps(optax.chain(optax.sgd(0.1), sparsejax.ste_magnitude(0.5)), 2).init(
        params
    )
    seen = forward_params(params, state)
    assert (seen["kernel"] != 0).sum() == 8
    assert (seen["bias"] != 0).all()
    with pytest.raises(ValueError, match="there are no masks"):
        forward_params(params, optax.sgd(0.1).init(params))


def test_counts_are_whole_numbers_of_entries_and_not_of_mask_bits():
    params = {
        "conv": jax.ShapeDtypeStruct((3, 3, 4, 6), jnp.float32),
        "huge": jax.ShapeDtypeStruct((2**20, 2**11 + 1, 3), jnp.float32),
        "dense": jax.ShapeDtypeStruct((5, 4), jnp.bfloat16),
        "bias": jax.ShapeDtypeStruct((4,), jnp.float32),
        "none": jax.ShapeDtypeStruct((0, 4), jnp.float32),
    }
    masks = {
        "conv": jnp.array([True, False, True, True, False, False]).reshape(1, 1, 1, 6),
        "huge": jnp.array([True, False, True]).reshape(1, 1, 3),
        "dense": jnp.eye(5, 4, dtype=bool),
        "bias": jnp.array(True),
        "none": jnp.ones((0, 4), bool),
    }
    found = counts(params, masks)
    assert found == {
        "conv": (108, 216),
        "dense": (4, 20),
        "huge": (2**21 * (2**11 + 1), 3 * 2**20 * (2**11 + 1)),
        "none": (0, 0),
    }
    assert all(type(n) is int for kept in found.values() for n in kept)
    assert found["conv"].kept == 108
    assert found["conv"].total == 216


def test_counts_of_a_mask_that_stands_for_a_subtree():
    params = {"a": {"u": jnp.ones((2, 3)), "v": jnp.ones((4, 3))}, "b": jnp.ones((2, 2))}
    masks = {"a": jnp.array([[True, False, True]]), "b": True}
    assert counts(params, masks) == {"a/u": (4, 6), "a/v": (8, 12)}
