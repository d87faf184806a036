"""What the tracer finds to live or die together, and that it does so."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from experiments.models import lenet5_caffe, resnet20


def random_like(tree, seed=0):
    """Values of no pattern, so that nothing vanishes by chance; all positive are variances."""
    rng = np.random.default_rng(seed)

    def draw(path, x):
        values = rng.normal(size=x.shape).astype(np.float32) / math.sqrt(max(x.shape[0], 1))
        return jnp.asarray(np.abs(values) + 0.5 if "var" in str(path[-1]) else values)

    return jax.tree_util.tree_map_with_path(draw, tree)


def change(tree, members, units, values):
    """The tree with the slices of the units replaced, one value tree for all."""
    leaves = {sparsejax.masks.path_name(p): np.array(x) for p, x in flat(tree)}
    new = {sparsejax.masks.path_name(p): np.array(x) for p, x in flat(values)}
    for member in members:
        at = [i for unit in units for i in member.indices[unit]]
        index = (slice(None),) * member.axis + (at,)
        leaves[member.path][index] = new[member.path][index]
    return jax.tree.unflatten(jax.tree.structure(tree), map(jnp.asarray, leaves.values()))


def flat(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


def check_removal(apply, params, groups, leave_out=None):
    """Half of the units of all groups die: then their consumers' weights do not matter at all."""
    rng = np.random.default_rng(1)
    dead = [rng.permutation(group.units)[: (group.units + 1) // 2] for group in groups]
    zeros, noise = jax.tree.map(jnp.zeros_like, params), random_like(params, 2)
    outputs = []
    for values in zeros, noise:
        changed = params
        for role, new in (("consumer", values), ("producer", zeros)):
            for group, units in zip(groups, dead, strict=True):
                members = [m for m in group.members if m.role == role and m.path != leave_out]
                changed = change(changed, members, units, new)
        outputs.append(jax.tree.map(np.asarray, apply(changed)))
    same = jax.tree.map(np.array_equal, *outputs)
    dense = jax.tree.map(np.asarray, apply(params))
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, dense, outputs[0])))
    return all(jax.tree.leaves(same))


def summary(coupling):
    return {
        group.name: (group.units, {(m.path, m.axis): m.role for m in group.members})
        for group in coupling.groups
    }


def reasons(coupling, path, axis):
    return [f.reason for f in coupling.fixed if (f.path, f.axis) == (path, axis)]


def flax_model(module, x):
    variables = random_like(jax.eval_shape(module.init, jax.random.key(0), x))
    return variables["params"], variables.get("batch_stats")


def test_channels_own_their_positions_in_a_flattened_image():
    module, x = lenet5_caffe(), jax.random.normal(jax.random.key(0), (2, 28, 28, 1))
    params, _ = flax_model(module, x)
    apply = jax.jit(lambda p, x: module.apply({"params": p}, x))
    coupling = sparsejax.coupled_groups(apply, params, x)
    assert summary(coupling) == {
        "Conv_0/bias": (
            20,
            {
                ("Conv_0/bias", 0): "producer",
                ("Conv_0/kernel", 3): "producer",
                ("Conv_1/kernel", 2): "consumer",
            },
        ),
        "Conv_1/bias": (
            50,
            {
                ("Conv_1/bias", 0): "producer",
                ("Conv_1/kernel", 3): "producer",
                ("Dense_0/kernel", 0): "consumer",
            },
        ),
        "Dense_0/bias": (
            500,
            {
                ("Dense_0/bias", 0): "producer",
                ("Dense_0/kernel", 1): "producer",
                ("Dense_1/kernel", 0): "consumer",
            },
        ),
    }
    flattened = coupling.groups[1].members[2]
    assert flattened.indices[7] == tuple(range(7, 800, 50))
    assert [group.feeds for group in coupling.groups] == [0, 0, 0]
    assert reasons(coupling, "Dense_1/bias", 0) == ["an output of the network"]
    assert reasons(coupling, "Conv_0/kernel", 2) == ["an input of the network"]
    assert check_removal(lambda p: apply(p, x), params, coupling.groups)
    assert not check_removal(lambda p: apply(p, x), params, coupling.groups, "Conv_1/bias")


def test_a_residual_network_couples_the_channels_of_its_stages():
    module, x = resnet20(), jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    params, stats = flax_model(module, x)
    apply = jax.jit(lambda p, s, x: module.apply({"params": p, "batch_stats": s}, x))
    coupling = sparsejax.coupled_groups(apply, params, x, state=stats)
    inner, stream = {}, []
    for group in coupling.groups:
        assert group.feeds == 0
        if any(m.path.startswith("Dense_0") for m in group.members):
            stream.append(group)
        else:
            inner[group.name] = group
    # Within a block: convolution, norm with its statistics, next convolution.
    assert {name: g.units for name, g in inner.items()} == {
        f"Block_{b}/BatchNorm_0/bias": 16 * 2 ** (b // 3) for b in range(9)
    }
    assert {(m.path, m.axis, m.role) for m in inner["Block_4/BatchNorm_0/bias"].members} == {
        ("Block_4/BatchNorm_0/bias", 0, "producer"),
        ("Block_4/BatchNorm_0/scale", 0, "producer"),
        ("Block_4/BatchNorm_0/mean", 0, "state"),
        ("Block_4/BatchNorm_0/var", 0, "state"),
        ("Block_4/Conv_0/kernel", 3, "producer"),
        ("Block_4/Conv_1/kernel", 2, "consumer"),
    }
    # The shortcuts pad half of the new channels before the old ones and half behind them.
    where = {
        group.units: {m.path: [i for (i,) in m.indices] for m in group.members if m.axis == 0}
        for group in stream
        if group.units == 32
    } | {
        ("early" if "BatchNorm_0/bias" in paths else "late"): paths
        for group in stream
        if group.units == 16
        for paths in [{m.path: [i for (i,) in m.indices] for m in group.members}]
    }
    assert len(stream) == 3
    assert where["early"]["BatchNorm_0/bias"] == list(range(16))
    assert where["early"]["Block_3/BatchNorm_1/bias"] == list(range(8, 24))
    assert where["early"]["Block_8/BatchNorm_1/bias"] == list(range(24, 40))
    assert where["late"]["Block_3/BatchNorm_1/bias"] == [*range(8), *range(24, 32)]
    assert where["late"]["Dense_0/kernel"] == [*range(16, 24), *range(40, 48)]
    assert where[32]["Block_6/BatchNorm_1/bias"] == [*range(16), *range(48, 64)]
    assert check_removal(lambda p: apply(p, stats, x), params, coupling.groups)
    for needed in "Block_4/BatchNorm_0/bias", "Block_8/BatchNorm_1/scale":
        assert not check_removal(lambda p: apply(p, stats, x), params, coupling.groups, needed)


class Transformer(nn.Module):
    norm: bool = True

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 8)(tokens)
        for _ in range(2):
            y = nn.LayerNorm()(x) if self.norm else x
            mask = nn.make_causal_mask(tokens)
            x = x + nn.MultiHeadDotProductAttention(4, qkv_features=12)(y, y, mask=mask)
            y = nn.LayerNorm()(x) if self.norm else x
            x = x + nn.Dense(8)(nn.gelu(nn.Dense(16)(y)))
        return nn.Dense(5)(x)


@pytest.mark.parametrize("norm", [True, False])
def test_a_transformer_has_heads_and_hidden_units(norm):
    module, tokens = Transformer(norm), jnp.arange(10).reshape(2, 5)
    params, _ = flax_model(module, tokens)
    apply = jax.jit(lambda p, t: module.apply({"params": p}, t))
    coupling = sparsejax.coupled_groups(apply, params, tokens)
    layer = "MultiHeadDotProductAttention_1"
    kinds = {
        tuple(sorted({(m.path.removeprefix(layer + "/"), m.axis) for m in group.members}))
        for group in coupling.groups
        if any(m.path.startswith(layer) for m in group.members)
        and not any(m.path.startswith("Embed") for m in group.members)
    }
    heads = {(f"{part}/kernel", 1) for part in ("query", "key", "value")}
    heads |= {(f"{part}/bias", 0) for part in ("query", "key", "value")} | {("out/kernel", 0)}
    matching = {(f"{part}/kernel", 2) for part in ("query", "key")}
    matching |= {(f"{part}/bias", 1) for part in ("query", "key")}
    values = {("value/kernel", 2), ("value/bias", 1), ("out/kernel", 1)}
    assert kinds == {tuple(sorted(kind)) for kind in (heads, matching, values)}
    hidden = [g for g in coupling.groups if g.units == 16]
    assert [{m.path for m in g.members} for g in hidden] == [
        {f"Dense_{i + 1}/bias", f"Dense_{i + 1}/kernel", f"Dense_{i}/kernel"} for i in (0, 2)
    ]
    assert all(group.feeds == 0 for group in coupling.groups)
    assert len(coupling.groups) == (8 if norm else 9)
    if norm:
        (reason,) = reasons(coupling, "Embed_0/embedding", 1)
        assert reason.startswith("it is reduced as a whole (reduce_sum)")
    else:
        (stream,) = (g for g in coupling.groups if g.units == 8)
        assert ("Embed_0/embedding", 1) in {(m.path, m.axis) for m in stream.members}
    assert check_removal(lambda p: apply(p, tokens), params, coupling.groups)
    bias = f"{layer}/value/bias"
    assert not check_removal(lambda p: apply(p, tokens), params, coupling.groups, bias)


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def layer(n_in, n_out):
    return {"kernel": jnp.ones((n_in, n_out)), "bias": jnp.ones(n_out)}


def fused_attention(p, x):
    """Queries, keys and values of one kernel, heads by reshape and einsum."""
    length = x.shape[-2]
    q, k, v = jnp.split(dense(p["qkv"], x), 3, axis=-1)
    q, k, v = (a.reshape(*x.shape[:-1], 3, 2) for a in (q, k, v))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) + jnp.tril(jnp.ones((length, length)))
    y = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
    return dense(p["out"], y.reshape(*x.shape[:-1], 6))


def stacked_attention(p, x):
    """The same with the three stacked along an axis, under remat."""

    @jax.checkpoint
    def inner(p, x):
        qkv = dense(p["qkv"], x).reshape(*x.shape[:-1], 3, 3, 2)
        q, k, v = (qkv[..., i, :, :].swapaxes(-2, -3) for i in range(3))
        y = jax.nn.softmax(q @ k.swapaxes(-1, -2)) @ v
        return dense(p["out"], y.swapaxes(-2, -3).reshape(*x.shape[:-1], 6))

    return inner(p, x)


@pytest.mark.parametrize("attention", [fused_attention, stacked_attention])
def test_heads_of_a_fused_kernel(attention):
    params = random_like({"qkv": layer(5, 18), "out": layer(6, 4)})
    x = jax.random.normal(jax.random.key(0), (2, 3, 5))
    groups = sparsejax.coupled_groups(attention, params, x).groups
    indices = {
        (group.units, member.path, member.axis): member.indices
        for group in groups
        for member in group.members
    }
    # The kernel's columns are ordered by (query, key, value), head, position in the head.
    heads = tuple(tuple(6 * i + 2 * h + j for i in range(3) for j in range(2)) for h in range(3))
    assert indices[3, "qkv/kernel", 1] == indices[3, "qkv/bias", 0] == heads
    assert indices[3, "out/kernel", 0] == ((0, 1), (2, 3), (4, 5))
    kinds = [{(m.path, m.axis, len(m.indices[0])) for m in g.members} for g in groups]
    values = {("qkv/kernel", 1, 3), ("qkv/bias", 0, 3), ("out/kernel", 0, 3)}
    if attention is fused_attention:
        # Also the positions in a head: those of queries and keys, and those of values.
        assert {("qkv/kernel", 1, 6), ("qkv/bias", 0, 6)} in kinds
        assert values in kinds
        assert [g.units for g in groups if g.units != 3] == [2, 2]
    assert check_removal(lambda p: attention(p, x), params, groups)


def convolution(p, x, groups=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, p, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )


def depthwise(p, x):
    y = jax.nn.relu(convolution(p["wide"], x))
    y = jax.nn.silu(convolution(p["deep"], y, groups=6) + p["shift"])
    y = jax.lax.reduce_window(y, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return convolution(p["point"], y)


def multiplied(p, x):
    y = convolution(p["wide"], x)
    return convolution(p["point"], jnp.tanh(convolution(p["deep"], y, groups=6)))


def densely_connected(p, x):
    y = jax.nn.relu(convolution(p["first"], x))
    z = jax.nn.relu(convolution(p["second"], y))
    return convolution(p["last"], jnp.concatenate([z, y], axis=-1)[..., ::-1])


KERNELS = [
    (
        depthwise,
        {"wide": (3, 3, 2, 6), "deep": (3, 3, 1, 6), "shift": (6,), "point": (1, 1, 6, 4)},
        [
            {
                ("wide", 3): [(i,) for i in range(6)],
                ("deep", 3): [(i,) for i in range(6)],
                ("shift", 0): [(i,) for i in range(6)],
                ("point", 2): [(i,) for i in range(6)],
            }
        ],
    ),
    (
        multiplied,
        {"wide": (1, 1, 2, 6), "deep": (3, 3, 1, 12), "point": (1, 1, 12, 4)},
        [
            # A channel of the first layer, or the first or second output of all channels.
            {
                ("wide", 3): [(i,) for i in range(6)],
                ("deep", 3): [(2 * i, 2 * i + 1) for i in range(6)],
                ("point", 2): [(2 * i, 2 * i + 1) for i in range(6)],
            },
            {
                ("deep", 3): [tuple(range(i, 12, 2)) for i in range(2)],
                ("point", 2): [tuple(range(i, 12, 2)) for i in range(2)],
            },
        ],
    ),
    (
        densely_connected,
        {"first": (3, 3, 2, 4), "second": (3, 3, 4, 3), "last": (1, 1, 7, 4)},
        [
            {
                ("first", 3): [(i,) for i in range(4)],
                ("second", 2): [(i,) for i in range(4)],
                ("last", 2): [(3 - i,) for i in range(4)],
            },
            {
                ("second", 3): [(i,) for i in range(3)],
                ("last", 2): [(6 - i,) for i in range(3)],
            },
        ],
    ),
]


@pytest.mark.parametrize(("apply", "shapes", "wanted"), KERNELS)
def test_convolutions(apply, shapes, wanted):
    params = random_like({k: jnp.ones(shape) for k, shape in shapes.items()})
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 2))
    groups = sparsejax.coupled_groups(apply, params, x).groups
    found = [{(m.path, m.axis): list(m.indices) for m in group.members} for group in groups]
    assert len(found) == len(wanted)
    for group in wanted:
        assert group in found
    apply = jax.jit(apply)
    assert check_removal(lambda p: apply(p, x), params, groups)


def test_group_norm_removes_whole_groups():
    params = random_like({"w": jnp.ones((3, 6)), "scale": jnp.ones(6), "v": jnp.ones((6, 2))})
    x = jax.random.normal(jax.random.key(0), (4, 3))

    def apply(p, x):
        y = (x @ p["w"]).reshape(-1, 3, 2)
        y = (y - y.mean(-1, keepdims=True)) * jax.lax.rsqrt(y.var(-1, keepdims=True) + 1e-5)
        return (y.reshape(-1, 6) * p["scale"]) @ p["v"]

    (group,) = sparsejax.coupled_groups(apply, params, x).groups
    assert {m.path: m.indices for m in group.members} == dict.fromkeys(
        params, ((0, 1), (2, 3), (4, 5))
    )
    assert check_removal(lambda p: apply(p, x), params, [group])


ACTIVATIONS = {
    "relu": (jax.nn.relu, 0),
    "gelu": (jax.nn.gelu, 0),
    "silu": (jax.nn.silu, 0),
    "elu": (jax.nn.elu, 0),
    "leaky_relu": (jax.nn.leaky_relu, 0),
    "tanh": (jnp.tanh, 0),
    "relu6": (jax.nn.relu6, 0),
    "dropout": (
        lambda x: jnp.where(jax.random.bernoulli(jax.random.key(1), 0.5, x.shape), x, 0),
        0,
    ),
    "sigmoid": (jax.nn.sigmoid, 0.5),
    "softplus": (jax.nn.softplus, math.log(2)),
    "cos": (lambda x: 1 + jnp.cos(x) * 2, 3.0),
    "shifted": (lambda x: x + jnp.arange(1.0, 4.0)[:, None], None),
    "times the input": (lambda x: jnp.exp(x) * jnp.arange(1.0, 4.0)[:, None], None),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_a_dead_unit_feeds(name):
    activation, value = ACTIVATIONS[name]
    params = random_like({"a": layer(2, 4), "b": layer(4, 2)})
    x = jax.random.normal(jax.random.key(0), (3, 2))

    def apply(p, x):
        return dense(p["b"], activation(dense(p["a"], x)))

    (group,) = sparsejax.coupled_groups(apply, params, x).groups
    assert group.feeds == (value if value is None else pytest.approx(value, rel=1e-6))
    assert check_removal(lambda p: apply(p, x), params, [group]) == (value == 0)


def test_norms_without_a_scale_leave_the_running_mean():
    params = {"a": jnp.ones((2, 4)), "b": jnp.ones((4, 2))}
    state = {"mean": jnp.ones(4)}

    def apply(p, s, x):
        return jax.nn.relu(x @ p["a"] - s["mean"]) @ p["b"]

    (group,) = sparsejax.coupled_groups(apply, params, jnp.ones((3, 2)), state=state).groups
    assert group.feeds is None
    assert [m.role for m in group.members] == ["producer", "consumer", "state"]


def _odd(between, **more):
    def apply(p, x):
        return between(jax.nn.relu(x @ p["a"]), p) @ p["b"]

    return apply, {"a": jnp.ones((2, 4)), "b": jnp.ones((4, 2)), **more}


FIXED = {
    "softmax": (_odd(lambda y, p: jax.nn.softmax(y)), "it is reduced as a whole"),
    "sort": (_odd(lambda y, p: jnp.sort(y)), "sort is not understood"),
    "loop": (
        _odd(lambda y, p: jax.lax.fori_loop(0, 2, lambda i, y: y + 1, y)),
        "scan is not understood",
    ),
    "cumsum": (_odd(lambda y, p: jnp.cumsum(y, -1)), "cumsum runs along it"),
    "constant": (_odd(lambda y, p: y * jnp.arange(4.0)), "its positions are numbered"),
    "table": (
        _odd(lambda y, p: y * np.array([1.0, 2.0, 3.0, 4.0])),
        "a constant of the function varies along it",
    ),
    "one column": (_odd(lambda y, p: y * (1 + y[:, :1])), None),
    "skip": (_odd(lambda y, p: y.reshape(-1, 2, 2).sum(1).repeat(2, -1)), None),
    "transposed": (
        _odd(lambda y, p: y + y.reshape(-1, 2, 2).swapaxes(1, 2).reshape(-1, 4)),
        None,
    ),
    "a product of two activations": (
        _odd(lambda y, p: jnp.cos(y) @ jnp.cos(y).T @ y),
        "a dead unit would add to a sum",
    ),
}


@pytest.mark.parametrize("name", FIXED)
def test_in_doubt_nothing_is_removed(name):
    (apply, params), reason = FIXED[name]
    x = jax.random.normal(jax.random.key(0), (16, 2))
    params = random_like(params)
    coupling = sparsejax.coupled_groups(apply, params, x)
    if reason is not None:
        assert not coupling.groups
        assert reason in reasons(coupling, "a", 1)[0]
    elif coupling.groups:
        assert check_removal(lambda p: apply(p, x), params, coupling.groups)


def test_what_nothing_reads_is_no_unit():
    params = {"a": jnp.ones((2, 4)), "unused": jnp.ones((3, 5))}
    coupling = sparsejax.coupled_groups(lambda p, x: x @ p["a"], params, jnp.ones((1, 2)))
    assert not coupling.groups
    assert reasons(coupling, "unused", 0) == ["no weights read it"]


def test_shapes_are_enough():
    params = jax.eval_shape(lambda: {"a": layer(2, 4), "b": layer(4, 2)})
    x = jax.ShapeDtypeStruct((3, 2), jnp.bfloat16)
    (group,) = sparsejax.coupled_groups(
        lambda p, x: dense(p["b"], jax.nn.relu(dense(p["a"], x))), params, x
    ).groups
    assert hash(group)
    assert group.units == 4
