"""Densities, churn, FLOPs and bytes against numbers counted by hand, by XLA, by running on ones."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax.distributions import erk, uniform
from sparsejax.metrics import Bytes, Flops, churn, densities, flops, nbytes, training_flops
from sparsejax.typing import Leaf

DENSE = np.array(True)


def struct(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def random_mask(shape, kept, seed=0):
    """A mask with exactly `kept` entries."""
    mask = np.zeros(np.prod(shape), bool)
    mask[np.random.default_rng(seed).permutation(mask.size)[:kept]] = True
    return mask.reshape(shape)


def flax_flops(model, x, masks=None):
    """The FLOPs of a flax model, with masks made from its parameters."""
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    masks = None if masks is None else masks(params)
    return flops(lambda p, x: model.apply({"params": p}, x), params, x, masks=masks)


def mask_kernels(kept_of):
    """Masks that keep `kept_of[path]` entries of the named leaves, all others staying dense."""

    def mask(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return random_mask(leaf.shape, kept_of[name]) if name in kept_of else DENSE

    return lambda params: jax.tree_util.tree_map_with_path(mask, params)


class Mlp(nn.Module):
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        return x


def test_densities_are_of_the_masked_leaves():
    params = {"a": {"w": struct(4, 5), "b": struct(5)}, "conv": struct(3, 3, 2, 8)}
    masks = {
        "a": {"w": random_mask((4, 5), 7), "b": DENSE},
        "conv": random_mask((1, 1, 1, 8), 2),
    }
    assert densities(params, masks) == {"a/w": 7 / 20, "conv": 2 / 8}


def test_churn_is_the_distance_of_the_sets_of_connections():
    params = {"a": struct(30, 40), "conv": struct(3, 3, 2, 8), "b": struct(40)}
    masks = [
        {
            "a": random_mask((30, 40), 300 + 50 * seed, seed),
            "conv": random_mask((1, 1, 1, 8), 2 + seed, seed),
            "b": DENSE,
        }
        for seed in (0, 1)
    ]
    sets = [
        {
            (name, *index)
            for name in ("a", "conv")
            for index in np.argwhere(np.broadcast_to(mask[name], params[name].shape)).tolist()
        }
        for mask in masks
    ]
    want = len(sets[0] ^ sets[1]) / len(sets[0] | sets[1])
    assert 0.5 < want < 1
    assert churn(params, *masks) == churn(params, *reversed(masks)) == want
    assert churn(params, masks[0], masks[0]) == 0


def test_churn_at_the_ends_of_its_range():
    params = {"a": struct(2, 4), "b": struct(4)}
    left, right = ({"a": np.arange(8).reshape(2, 4) // 4 == row, "b": DENSE} for row in (0, 1))
    assert churn(params, left, right) == 1
    nothing = {"a": np.zeros((2, 4), bool), "b": DENSE}
    assert churn(params, nothing, nothing) == 0
    assert churn(params, DENSE, DENSE) == 0  # no leaf is masked
    third = {"a": left["a"] & (np.arange(4) < 1), "b": DENSE}
    assert churn(params, left, third) == 3 / 4  # the share that was removed


def test_lenet300():
    masks = mask_kernels({"Dense_0/kernel": 23520, "Dense_1/kernel": 3001})
    got = flax_flops(Mlp((300, 100, 10)), struct(5, 784), masks)
    assert got.dense == {
        "Dense_0/kernel": 5 * 2 * 235200,
        "Dense_1/kernel": 5 * 2 * 30000,
        "Dense_2/kernel": 5 * 2 * 1000,
    }
    assert got.sparse == {
        "Dense_0/kernel": 5 * 2 * 23520,
        "Dense_1/kernel": pytest.approx(5 * 2 * 3001, rel=1e-15),
        "Dense_2/kernel": 5 * 2 * 1000,
    }
    assert (got.other, got.total_dense) == (0, 5 * 2 * 266200)
    assert got.total_sparse == pytest.approx(5 * 2 * (23520 + 3001 + 1000), rel=1e-15)


class ConvNet(nn.Module):
    @nn.compact
    def __call__(self, x):  # (2, 9, 9, 3)
        x = nn.Conv(8, (3, 3), strides=2)(x)  # (2, 5, 5, 8)
        x = nn.Conv(8, (3, 3), feature_group_count=8)(x)  # the same, one input channel each
        x = nn.Conv(4, (2, 2), kernel_dilation=2, padding="VALID")(nn.relu(x))  # (2, 3, 3, 4)
        x = nn.ConvTranspose(6, (2, 2), strides=(2, 2))(x)  # (2, 6, 6, 6), one tap an output
        x = nn.avg_pool(x, (2, 2), (2, 2))  # (2, 3, 3, 6)
        return Mlp((7,))(x.reshape(2, -1))


def test_convolutions_and_nested_modules():
    got = flax_flops(ConvNet(), struct(2, 9, 9, 3), mask_kernels({"Conv_0/kernel": 54}))
    assert got.dense == {
        "Conv_0/kernel": 2 * 2 * 5 * 5 * 8 * 27,
        "Conv_1/kernel": 2 * 2 * 5 * 5 * 8 * 9,
        "Conv_2/kernel": 2 * 2 * 3 * 3 * 4 * 4 * 8,
        "ConvTranspose_0/kernel": 2 * 2 * 6 * 6 * 6 * 4,
        "Mlp_0/Dense_0/kernel": 2 * 2 * 54 * 7,
    }
    assert got.sparse["Conv_0/kernel"] == 2 * 2 * 5 * 5 * 54
    assert {k: v for k, v in got.sparse.items() if k != "Conv_0/kernel"} == {
        k: v for k, v in got.dense.items() if k != "Conv_0/kernel"
    }


@pytest.mark.parametrize(
    ("lhs", "rhs", "kwargs"),
    [
        ((2, 7, 8, 4), (3, 2, 4, 6), {"window_strides": (2, 1)}),
        ((2, 7, 8, 4), (3, 2, 2, 6), {"window_strides": (1, 3), "feature_group_count": 2}),
        ((2, 9, 9, 4), (3, 2, 4, 6), {"window_strides": (1, 1), "rhs_dilation": (2, 3)}),
        ((2, 4, 5, 3), (3, 3, 3, 2), {"window_strides": (1, 1), "lhs_dilation": (2, 3)}),
        (
            (2, 5, 5, 3),
            (3, 4, 3, 2),
            {"window_strides": (2, 3), "lhs_dilation": (3, 2), "rhs_dilation": (1, 2)},
        ),
        (  # padding that holds no place for an input, only for the zeros between inputs
            (2, 5, 5, 3),
            (3, 2, 3, 2),
            {"window_strides": (2, 2), "lhs_dilation": (2, 2), "padding": [(1, 0), (0, 1)]},
        ),
        ((4, 5, 5, 3), (3, 3, 3, 2), {"window_strides": (1, 1), "batch_group_count": 2}),
    ],
)
def test_convolution_of_ones_adds_up_its_multiply_adds(lhs, rhs, kwargs):
    """Without padded inputs, each multiply-add of ones adds one to the sum of the outputs."""
    names = ("NHWC", "HWIO", "NHWC")

    def product(kernel, x):
        return lax.conv_general_dilated(
            x, kernel, dimension_numbers=names, **{"padding": [(0, 0)] * 2, **kwargs}
        )

    got = flops(product, jnp.ones(rhs), jnp.ones(lhs))
    assert got.total_dense == 2 * int(product(jnp.ones(rhs), jnp.ones(lhs)).sum())
    if "lhs_dilation" not in kwargs:  # every weight is used equally often: the density is exact
        mask = random_mask(rhs, 11)
        sparse = flops(product, jnp.ones(rhs), jnp.ones(lhs), masks=mask).total_sparse
        assert round(sparse) == 2 * int(product(mask.astype(np.float32), jnp.ones(lhs)).sum())


def test_convolution_layouts_agree():
    def nchw(kernel, x):
        return lax.conv_general_dilated(x, kernel, (2, 2), "SAME")

    assert flops(nchw, struct(8, 3, 3, 3), struct(2, 3, 9, 9)).total_dense == 2 * 2 * 25 * 8 * 27


@pytest.mark.parametrize("spec", ["bi,io->bo", "abi,ioh->aboh", "eci,eio->eco", "bi,oi->ob"])
def test_dot_of_ones_adds_up_its_multiply_adds(spec):
    size = dict(zip("abceiohx", (2, 3, 4, 5, 6, 7, 8, 9), strict=True))
    x, w = (tuple(size[c] for c in part) for part in spec.split("->")[0].split(","))
    mask = random_mask(w, 13)
    got = flops(lambda p, x: jnp.einsum(spec, x, p), jnp.ones(w), jnp.ones(x), masks=mask)
    assert got.total_dense == 2 * int(jnp.einsum(spec, jnp.ones(x), jnp.ones(w)).sum())
    assert round(got.total_sparse) == 2 * int(jnp.einsum(spec, jnp.ones(x), 1.0 * mask).sum())


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x + self.param("positions", nn.initializers.zeros, (6, 8))
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        return nn.Dense(5)(nn.LayerNorm()(x))


def test_attention():
    batch, time, width = 3, 6, 8
    kept = {"MultiHeadDotProductAttention_0/query/kernel": 16}
    got = flax_flops(Block(), struct(batch, time, width), mask_kernels(kept))
    projection = 2 * batch * time * width * width
    attention = {
        f"MultiHeadDotProductAttention_0/{name}/kernel": projection
        for name in ("key", "out", "query", "value")
    }
    assert got.dense == {**attention, "Dense_0/kernel": 2 * batch * time * width * 5}
    assert got.sparse["MultiHeadDotProductAttention_0/query/kernel"] == projection / 4
    assert got.other == 2 * (2 * batch * time * time * width)  # scores, and their use


def test_vmap_over_examples_and_over_networks():
    def one(p, x):
        return jnp.tanh(p["a"] @ x) @ p["b"]

    params = {"a": struct(4, 3), "b": struct(4, 5)}
    want = {"a": 7 * 2 * 12, "b": 7 * 2 * 20}
    assert flops(jax.vmap(one, (None, 0)), params, struct(7, 3)).dense == want
    many = jax.tree.map(lambda p: struct(2, *p.shape), params)
    both = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    assert flops(both, many, struct(7, 3)).dense == {k: 2 * n for k, n in want.items()}


@jax.custom_vjp
def with_vjp(p, x):
    return x @ p


with_vjp.defvjp(lambda p, x: (x @ p, (p, x)), lambda res, g: (res[1].T @ g, g @ res[0].T))


@jax.custom_jvp
def with_jvp(p, x):
    return x @ p


with_jvp.defjvp(lambda primals, tangents: (with_jvp(*primals), with_jvp(*tangents)))


@pytest.mark.parametrize(
    "fn",
    [
        jax.jit(lambda p, x: x @ p),
        jax.checkpoint(lambda p, x: jax.jit(jnp.matmul)(x, p)),
        with_vjp,
        with_jvp,
        lambda p, x: lax.cond(x.sum() > 0, lambda: x[:, :1] @ p[:1], lambda: x @ p),
        lambda p, x: lax.switch(1, [lambda: x, lambda: x @ p, lambda: x]),
        lambda p, x: x @ p.astype(jnp.bfloat16).astype(jnp.float32),
        lambda p, x: jnp.einsum("oi,ni->no", p.T, x),
        lambda p, x: x @ jnp.where(np.eye(4, dtype=bool), p, 0),
        lambda p, x: x @ (p * jnp.float32(0.5) / x[0, 0]),
        lambda p, x: x @ (jnp.sign(p) * jnp.abs(p) ** 2.0),
        lambda p, x: x @ ((p - p.mean(0)) / (p.std(0) + 1e-3)),
        lambda p, x: x @ jnp.concatenate([p[:2], p[2:]]).reshape(2, 2, 4).reshape(4, 4),
        lambda p, x: x @ lax.while_loop(lambda w: w.sum() < 1, lambda w: w + 1, p),
    ],
)
def test_a_product_is_charged_to_the_leaf_behind_it(fn):
    got = flops(fn, {"w": struct(4, 4)}["w"], struct(3, 4), masks=random_mask((4, 4), 4))
    assert got == Flops({"": 2 * 3 * 16}, {"": 2 * 3 * 4.0}, 0)


def test_masks_and_keys_and_temperatures_may_be_arguments():
    def fn(p, mask, scores, keys, temperature, x):
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (5,)))(keys)
        w = jnp.where(scores > 0, p["w"], 0)
        return x @ (jnp.where(mask, w, 0) * kept * mask * temperature)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4))
    args = struct(4, 5, dtype=jnp.bool_), struct(4, 5), keys, struct(), struct(3, 4)
    assert flops(fn, {"w": struct(4, 5)}, *args) == Flops({"w": 120}, {"w": 120.0}, 0)


def test_of_two_leaves_the_larger_is_charged():
    params = {"direction": struct(4, 5), "length": struct(5)}

    def fn(p, x):
        v = p["direction"]
        return x @ (v / jnp.linalg.norm(v, axis=0) * p["length"])

    assert flops(fn, params, struct(3, 4)).dense == {"direction": 120}


def test_of_equal_leaves_the_last_is_charged():
    params = {"queries": struct(4, 4), "w": struct(4, 4)}
    assert flops(lambda p: p["queries"] @ p["w"], params).dense == {"w": 128}


def test_what_holds_activations_is_no_weight():
    params = {"scale": struct(4), "table": struct(9, 4), "w": struct(4, 4)}

    def fn(p, tokens):
        h = p["table"][tokens] * p["scale"]
        return (h @ p["w"]) @ p["table"].T @ jnp.ones((9, 2)) + (h * h) @ jnp.ones((4, 2))

    got = flops(fn, params, struct(3, dtype=jnp.int32))
    assert got.dense == {"table": 2 * 3 * 36, "w": 2 * 3 * 16}
    assert got.other == 2 * 3 * 18 + 2 * 3 * 8


def test_scan_counts_every_step_and_follows_the_carry():
    def fn(p, x):
        def layer(carry, w):
            x, tied = carry
            return (lax.fori_loop(0, 2, lambda _, h: h @ tied, x @ w), tied), None

        return lax.scan(layer, (x, p["tied"]), p["stack"])[0][0]

    params = {"stack": struct(5, 4, 4), "tied": struct(4, 4)}
    masks = {"stack": random_mask((5, 4, 4), 20), "tied": DENSE}
    got = flops(fn, params, struct(3, 4), masks=masks)
    assert got.dense == {"stack": 5 * 2 * 3 * 16, "tied": 5 * 2 * 2 * 3 * 16}
    assert got.sparse == {"stack": 2 * 3 * 20.0, "tied": 5 * 2 * 2 * 3 * 16.0}

    def turns_into_data(p, x):
        return lax.scan(lambda w, x: (w * x, jnp.ones((2, 4)) @ w), p["tied"], x)[1]

    got = flops(turns_into_data, params, struct(3, 4, 4))
    assert (got.dense, got.other) == ({}, 3 * 2 * 2 * 16)


def test_products_in_a_while_loop_are_refused():
    def fn(p, x):
        return lax.while_loop(lambda h: h.sum() < 1, lambda h: h @ p, x)

    with pytest.raises(NotImplementedError, match=r"'while'.*lax\.scan"):
        flops(fn, struct(4, 4), struct(3, 4))


def test_ragged_products_are_refused():
    def fn(p, x):
        return lax.ragged_dot(x, p, jnp.array([1, 2]))

    with pytest.raises(NotImplementedError, match="ragged_dot"):
        flops(fn, struct(2, 4, 4), struct(3, 4))


def test_counts_are_exact_past_two_to_the_53():
    n = 2**20 + 1
    got = flops(lambda p, x: x @ p, struct(n, n), struct(2**17 + 1, n))
    assert got.total_dense == 2 * n * n * (2**17 + 1)


def test_dense_total_equals_the_compilers():
    """XLA counts every operation, and leaves out products with padding: here are neither."""

    def fn(p, x):
        x = lax.conv_general_dilated(
            x, p["conv"], (2, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return x.reshape(2, -1) @ p["w"]

    params = {"conv": jnp.ones((3, 3, 3, 4)), "w": jnp.ones((3 * 5 * 4, 6))}
    x = jnp.ones((2, 7, 7, 3))
    cost = jax.jit(fn).lower(params, x).compile().cost_analysis()
    assert flops(fn, params, x).total_dense == cost["flops"]


def test_backward_pass_costs_two_forward_passes():
    """Less the gradient of the input: the premise of `training_flops`."""

    def loss(p, x):
        return jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]).sum()

    params = {"a": struct(4, 5), "b": struct(5, 6)}
    forward = flops(loss, params, struct(3, 4))
    both = flops(jax.grad(loss), params, struct(3, 4))
    assert both.total_dense == 3 * forward.total_dense - forward.dense["a"]


def test_resnet50_has_its_published_flops():
    """Those in the tables of the RigL paper, arXiv 1911.11134."""
    shapes = {"stem": (7, 7, 3, 64), "head": (2048, 1000)}
    strides = {"stem": 2}
    width_in = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            name = f"{stage}/{block}"
            stride = 2 if stage and not block else 1
            shapes[f"{name}/1"] = (1, 1, width_in, width)
            shapes[f"{name}/2"] = (3, 3, width, width)
            shapes[f"{name}/3"] = (1, 1, width, 4 * width)
            strides[f"{name}/2"] = stride
            if not block:
                shapes[f"{name}/skip"] = (1, 1, width_in, 4 * width)
                strides[f"{name}/skip"] = stride
            width_in = 4 * width

    def resnet(p, x):
        def conv(name, x):
            strides_2d = (strides.get(name, 1),) * 2
            names = ("NHWC", "HWIO", "NHWC")
            return lax.conv_general_dilated(x, p[name], strides_2d, "SAME", dimension_numbers=names)

        x = nn.max_pool(conv("stem", x), (3, 3), (2, 2), "SAME")
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                name = f"{stage}/{block}"
                skip = x if block else conv(f"{name}/skip", x)
                for i in (1, 2, 3):
                    x = nn.relu(conv(f"{name}/{i}", x))
                x = x + skip
        return x.mean((1, 2)) @ p["head"]

    params = {name: struct(*shape) for name, shape in shapes.items()}
    got = flops(resnet, params, struct(1, 224, 224, 3))
    assert got.total_dense == pytest.approx(8.2e9, rel=0.005)

    leaves = [Leaf(name, shape) for name, shape in shapes.items()]
    stem_dense = functools.partial(uniform, dense=["stem"])
    published = {  # of the dense network's, by distribution and density
        stem_dense: {0.2: 0.23, 0.1: 0.13},
        erk: {0.2: 0.42, 0.1: 0.24, 0.05: 0.12, 0.035: 0.08},
    }
    for distribution, ratios in published.items():
        for density, ratio in ratios.items():
            kept = distribution(leaves, density)
            at = got.at({n.path: k / math.prod(n.shape) for n, k in zip(leaves, kept, strict=True)})
            assert at.total_sparse / got.total_dense == pytest.approx(ratio, abs=0.01)


def test_at_other_densities():
    got = Flops({"a": 10, "b": 20}, {"a": 10.0, "b": 20.0}, 5).at({"b": 0.25, "bias": 0.5})
    assert got == Flops({"a": 10, "b": 20}, {"a": 10.0, "b": 5.0}, 5)
    assert (got.total_dense, got.total_sparse) == (35, 20.0)


@pytest.mark.parametrize(
    ("method", "kwargs", "want"),
    [
        ("dense", {}, 300.0),
        ("dense", {"sparse": 20}, 300.0),
        ("static", {"sparse": 20}, 60.0),
        ("set", {"sparse": 20}, 60.0),
        ("snfs", {"sparse": 20}, 140.0),
        ("rigl", {"sparse": 20, "period": 1}, (60 + 40 + 100) / 2),
        ("rigl", {"sparse": 20, "period": 100}, (6000 + 140) / 101),
        ("pruning", {"sparse": [100, 60, 20, 20]}, 150.0),
        ("pruning", {"sparse": np.array([100.0, 20.0])}, 180.0),
    ],
)
def test_training_flops(method, kwargs, want):
    assert training_flops(method, 100, **kwargs) == pytest.approx(want, rel=1e-15)


def test_training_flops_of_rigl_lie_between_static_and_snfs():
    costs = [training_flops("rigl", 100, 20, period) for period in (1, 10, 100, 1000)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] < training_flops("snfs", 100, 20)
    assert costs[-1] > training_flops("static", 100, 20)


@pytest.mark.parametrize(
    ("method", "kwargs", "message"),
    [
        ("adam", {"sparse": 20}, "'adam'; known are dense, static"),
        ("set", {}, "set needs sparse"),
        ("rigl", {"sparse": 20}, "rigl needs period"),
        ("rigl", {"sparse": 20, "period": 0}, "rigl needs period"),
    ],
)
def test_training_flops_refuses(method, kwargs, message):
    with pytest.raises(ValueError, match=message):
        training_flops(method, 100, **kwargs)


@pytest.mark.parametrize(
    ("shape", "dtype", "mask", "want"),
    [
        ((3, 5), jnp.float32, DENSE, (60, 60)),
        ((3, 5), jnp.float32, random_mask((3, 5), 4), (60, 2 + 16)),
        ((3, 5), jnp.bfloat16, random_mask((3, 5), 4), (30, 2 + 8)),
        ((3, 5), jnp.int4, random_mask((3, 5), 3), (8, 2 + 2)),
        ((3, 5), jnp.int8, random_mask((3, 5), 0), (15, 2)),
        ((3, 5), jnp.complex64, random_mask((3, 5), 1), (120, 2 + 8)),
        ((3, 5), jnp.float32, np.ones((3, 5), bool), (60, 60)),  # no smaller: as it is
        ((2, 9), jnp.float32, random_mask((1, 9), 4), (72, 2 + 32)),  # a bit for each channel
        ((0, 9), jnp.float32, np.ones((0, 9), bool), (0, 0)),
    ],
)
def test_nbytes_of_a_leaf(shape, dtype, mask, want):
    assert nbytes([struct(*shape, dtype=dtype)], [mask]) == Bytes(*want)


def test_nbytes_of_a_tree_is_the_sum():
    params = {"w": struct(784, 300), "b": struct(300), "v": struct(7, 3, dtype=jnp.float16)}
    masks = {"w": random_mask((784, 300), 23520), "b": DENSE, "v": random_mask((7, 3), 2)}
    want = Bytes(940800 + 1200 + 42, 29400 + 94080 + 1200 + 3 + 4)
    assert nbytes(params, masks) == want
    concrete = jax.tree.map(lambda p: jnp.ones(p.shape, p.dtype), params)
    assert nbytes(concrete, masks) == want
    assert want.dense == sum(leaf.nbytes for leaf in jax.tree.leaves(concrete))
