"""One network as four frameworks keep it: the library sees pytrees and paths, and no framework."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox
import flax.linen
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sparsejax
from sparsejax.structures import channel, constant_fan_in, nm

WORDS, WIDTH, HIDDEN, CLASSES = 11, 8, 12, 4
TOKENS = jax.random.randint(jax.random.key(1), (16, 5), 0, WORDS)
LABELS = jnp.arange(16) % CLASSES


class Network(NamedTuple):
    """Parameters, the forward pass, and the paths of the two kernels."""

    params: Any
    apply: Callable[[Any, jax.Array], jax.Array]
    kernels: tuple[str, str]


class LinenNet(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, tokens):
        x = flax.linen.LayerNorm()(flax.linen.Embed(WORDS, WIDTH)(tokens).mean(1))
        return flax.linen.Dense(CLASSES)(jax.nn.relu(flax.linen.Dense(HIDDEN)(x)))


def linen_network():
    net = LinenNet()
    params = net.init(jax.random.key(0), TOKENS)["params"]
    kernels = ("Dense_0/kernel", "Dense_1/kernel")
    return Network(params, lambda p, tokens: net.apply({"params": p}, tokens), kernels)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.hidden = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
        self.out = nnx.Linear(HIDDEN, CLASSES, rngs=rngs)

    def __call__(self, tokens):
        x = self.norm(self.embed(tokens).mean(1))
        return self.out(jax.nn.relu(self.hidden(x)))


def nnx_network():
    graph, params, rest = nnx.split(NnxNet(nnx.Rngs(0)), nnx.Param, ...)
    kernels = ("hidden/kernel/value", "out/kernel/value")
    return Network(params, lambda p, tokens: nnx.merge(graph, p, rest)(tokens), kernels)


class EquinoxNet(equinox.Module):
    embed: equinox.nn.Embedding
    norm: equinox.nn.LayerNorm
    hidden: equinox.nn.Linear
    out: equinox.nn.Linear
    activation: Callable

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.embed = equinox.nn.Embedding(WORDS, WIDTH, key=keys[0])
        self.norm = equinox.nn.LayerNorm(WIDTH)
        self.hidden = equinox.nn.Linear(WIDTH, HIDDEN, key=keys[1])
        self.out = equinox.nn.Linear(HIDDEN, CLASSES, key=keys[2])
        self.activation = jax.nn.relu

    def __call__(self, tokens):
        x = self.norm(jax.vmap(self.embed)(tokens).mean(0))
        return self.out(self.activation(self.hidden(x)))


def equinox_network():
    params, rest = equinox.partition(EquinoxNet(jax.random.key(0)), equinox.is_array)
    kernels = ("hidden/weight", "out/weight")
    return Network(params, lambda p, t: jax.vmap(equinox.combine(p, rest))(t), kernels)


def haiku_network():
    def forward(tokens):
        x = haiku.LayerNorm(-1, True, True)(haiku.Embed(WORDS, WIDTH)(tokens).mean(1))
        return haiku.Linear(CLASSES)(jax.nn.relu(haiku.Linear(HIDDEN)(x)))

    net = haiku.without_apply_rng(haiku.transform(forward))
    return Network(net.init(jax.random.key(0), TOKENS), net.apply, ("linear/w", "linear_1/w"))


NETWORKS = {
    "linen": linen_network,
    "nnx": nnx_network,
    "equinox": equinox_network,
    "haiku": haiku_network,
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    return NETWORKS[request.param]()


def by_path(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {sparsejax.masks.path_name(path): leaf for path, leaf in leaves}


def train(network, tx, steps):
    params, state = network.params, tx.init(network.params)
    params = sparsejax.apply_masks(params, sparsejax.get_masks(state))
    traces = []

    def loss(params):
        logits = network.apply(sparsejax.forward_params(params, state), TOKENS)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    @jax.jit
    def step(params, state):
        traces.append(None)
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    history = []
    for _ in range(steps):
        params, state, value = step(params, state)
        history.append((params, sparsejax.get_masks(state), float(value)))
    assert len(traces) == 1
    return history


def test_kernels_are_prunable_and_biases_norms_and_embeddings_are_not(network):
    masks = by_path(sparsejax.dense_masks(network.params))
    assert {path for path, mask in masks.items() if mask.ndim} == set(network.kernels)
    assert len(masks) == 7


def test_rigl_trains_with_exact_zeros_and_constant_counts(network):
    tx = sparsejax.sparsify(optax.adam(0.02), sparsejax.rigl(0.75, period=2, drop_fraction=0.5))
    first = sparsejax.get_masks(tx.init(network.params))
    wanted = sparsejax.counts(network.params, first)
    assert set(wanted) == set(network.kernels)
    assert sum(kept for kept, _ in wanted.values()) == (WIDTH + CLASSES) * HIDDEN // 4
    history = train(network, tx, 7)
    for params, masks, _ in history:
        assert jax.tree.structure(params) == jax.tree.structure(network.params)
        assert jax.tree.structure(masks) == jax.tree.structure(network.params)
        assert sparsejax.counts(params, masks) == wanted
        weights, on = by_path(params), by_path(masks)
        for path in network.kernels:
            np.testing.assert_array_equal(np.where(on[path], 0, weights[path]), 0)
    masks = [jax.tree.leaves(tree) for tree in [first, *(masks for _, masks, _ in history)]]
    moved = [
        any((old != new).any() for old, new in zip(before, after, strict=True))
        for before, after in itertools.pairwise(masks)
    ]
    assert moved == [False, False, True, False, True, False, True]
    assert history[-1][2] < history[0][2]


def test_straight_through_trains_every_weight(network):
    tx = optax.chain(optax.adam(0.02), sparsejax.ste_magnitude(0.75))
    params, masks, _ = train(network, tx, 2)[-1]
    before, after, on = by_path(network.params), by_path(params), by_path(masks)
    for path in network.kernels:
        assert (after[path] != before[path]).mean() > 0.8
        assert on[path].sum() == on[path].size // 4


def with_kernels(network, values):
    """The network's parameters with other kernels, given as (inputs, outputs)."""
    turned = network.kernels == ("hidden/weight", "out/weight")

    def kernel(path, leaf):
        name = sparsejax.masks.path_name(path)
        if name not in network.kernels:
            return leaf
        value = values[network.kernels.index(name)]
        return value.T if turned else value

    return jax.tree_util.tree_map_with_path(kernel, network.params), turned


# Equinox keeps (outputs, inputs), so there the axes are named.
STRUCTURES = {
    "unstructured": (None, None),
    "nm": (nm(2, 4), nm(2, 4, axis=-1)),
    "constant_fan_in": (constant_fan_in(), constant_fan_in(output_axis=0)),
    "channel": (channel(), channel(axis=0)),
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_all_frameworks_have_the_same_masks_up_to_their_axes(network, structure):
    rng = np.random.default_rng(0)
    shapes = [(WIDTH, HIDDEN), (HIDDEN, CLASSES)]
    values = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    params, turned = with_kernels(network, values)
    plain = {"hidden": values[0], "out": values[1]}

    def masks_of(params, structure):
        size = jax.tree.map(jnp.abs, params)
        return sparsejax.masks_from_scores(params, size, 0.5, structure=structure)

    masks = by_path(masks_of(params, STRUCTURES[structure][turned]))
    wanted = masks_of(plain, STRUCTURES[structure][0])
    for path, mask in zip(network.kernels, wanted.values(), strict=True):
        np.testing.assert_array_equal(masks[path], mask.T if turned else mask)


def test_convolutions_of_equinox_keep_channels_first():
    layer = equinox.nn.Conv2d(8, 6, 3, key=jax.random.key(0))
    params, _ = equinox.partition(layer, equinox.is_array)
    assert params.weight.shape == (6, 8, 3, 3)
    size = jax.tree.map(jnp.abs, params)
    sparse = sparsejax.masks_from_scores(params, size, 0.5, structure=nm(2, 4, axis=1)).weight
    assert (sparse.reshape(6, 2, 4, 3, 3).sum(2) == 2).all()
    even = sparsejax.masks_from_scores(params, size, 0.75, structure=constant_fan_in(0))
    assert (even.weight.sum((1, 2, 3)) == 18).all()
    assert even.bias.shape == ()
    assert params.bias.shape == (6, 1, 1)
