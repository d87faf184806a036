"""Cutting out what is dead: the same function, in smaller arrays."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.surgery import living_units, remove_units
from tests.coupling.test_groups import flax_model


class LeNet5(nn.Module):
    """Caffe's LeNet-5, of any widths."""

    widths: Sequence[int] = (20, 50, 500)

    @nn.compact
    def __call__(self, x):
        for channels in self.widths[:2]:
            x = nn.max_pool(nn.Conv(channels, (5, 5), padding="VALID")(x), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(self.widths[2])(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


class ResNet(nn.Module):
    """Residual blocks with batch norm; the blocks' inner widths and the stream's are given."""

    inner: Sequence[int] = (6, 8)
    stream: int = 5

    @nn.compact
    def __call__(self, x):
        def norm():
            return nn.BatchNorm(use_running_average=True)

        x = nn.relu(norm()(nn.Conv(self.stream, (3, 3), use_bias=False)(x)))
        for width in self.inner:
            y = nn.relu(norm()(nn.Conv(width, (3, 3), use_bias=False)(x)))
            x = nn.relu(x + norm()(nn.Conv(self.stream, (3, 3), use_bias=False)(y)))
        return nn.Dense(3)(x.mean((1, 2)))


def halves(groups, seed=0):
    """Of each group the first unit and about half of the others live."""
    rng = np.random.default_rng(seed)
    return [(np.arange(g.units) == 0) | (rng.random(g.units) < 0.5) for g in groups]


def masked(groups, alive, params):
    @jax.jit
    def mask(alive, params):
        masks = sparsejax.unit_masks(groups, alive, params)
        return masks, sparsejax.apply_masks(params, masks)

    return mask([jnp.asarray(on) for on in alive], params)


def test_lenet_is_cut_through_the_flattened_image():
    x = jax.random.normal(jax.random.key(0), (2, 28, 28, 1))
    params, _ = flax_model(LeNet5(), x)
    groups = sparsejax.coupled_groups(
        lambda p, x: LeNet5().apply({"params": p}, x), params, x
    ).groups
    alive = halves(groups)
    masks, params = masked(groups, alive, params)
    for found, on in zip(living_units(groups, masks, params), alive, strict=True):
        np.testing.assert_array_equal(found, on)
    smaller = remove_units(groups, alive, params)
    first, second, third = (int(on.sum()) for on in alive)
    assert smaller.shapes["Conv_1/kernel"] == (5, 5, first, second)
    assert smaller.shapes["Dense_0/kernel"] == (16 * second, third)
    assert "Dense_1/bias" not in smaller.shapes
    assert smaller.state is smaller.opt_state is None
    np.testing.assert_allclose(
        jax.jit(LeNet5((first, second, third)).apply)({"params": smaller.params}, x),
        jax.jit(LeNet5().apply)({"params": params}, x),
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_residual_network_is_cut_with_its_statistics():
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    module = ResNet()
    params, stats = flax_model(module, x)

    def apply(p, s, x):
        return module.apply({"params": p, "batch_stats": s}, x)

    groups = sparsejax.coupled_groups(apply, params, x, state=stats).groups
    alive = halves(groups)
    _, params = masked(groups, alive, params)
    smaller = remove_units(groups, alive, params, state=stats)
    widths = {len(on): int(on.sum()) for on in alive}
    assert sorted(widths) == [5, 6, 8]
    small = ResNet((widths[6], widths[8]), widths[5])
    np.testing.assert_allclose(
        jax.jit(small.apply)({"params": smaller.params, "batch_stats": smaller.state}, x),
        jax.jit(apply)(params, stats, x),
        rtol=1e-5,
        atol=1e-5,
    )


def mlp(params, x):
    return jnp.tanh(x @ params["a"] + params["b"]) @ params["c"]


@pytest.mark.parametrize(
    "optimizer", [optax.adam(0.1), optax.adafactor(0.1, min_dim_size_to_factor=2)]
)
def test_training_goes_on_where_it_was(optimizer):
    """A step of the smaller network is the step of the masked one."""
    x = jax.random.normal(jax.random.key(0), (4, 3))
    keys = jax.random.split(jax.random.key(1), 3)
    shapes = {"a": (3, 7), "b": (7,), "c": (7, 2)}
    params = {
        k: jax.random.normal(key, s) for key, (k, s) in zip(keys, shapes.items(), strict=True)
    }
    groups = sparsejax.coupled_groups(mlp, params, x).groups
    alive = halves(groups)
    masks, params = masked(groups, alive, params)
    tx = sparsejax.sparsify(optimizer, sparsejax.fixed(masks))

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: jnp.mean((mlp(p, x) - 1) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = step(params, tx.init(params))
    inner = state.inner_state
    smaller = remove_units(groups, alive, params, optimizer=optimizer, opt_state=inner)
    fresh = optimizer.init(smaller.params)
    assert jax.tree.map(jnp.shape, smaller.opt_state) == jax.tree.map(jnp.shape, fresh)

    @jax.jit
    def small_step(params, state):
        grads = jax.grad(lambda p: jnp.mean((mlp(p, x) - 1) ** 2))(params)
        return optax.apply_updates(params, optimizer.update(grads, state, params)[0])

    after = small_step(smaller.params, smaller.opt_state)
    if isinstance(inner[0], optax.ScaleByAdamState):
        wanted = remove_units(groups, alive, step(params, state)[0]).params
        for got, want in zip(*map(jax.tree.leaves, (after, wanted)), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5)
        slots = smaller.opt_state[0].mu["a"]
        np.testing.assert_array_equal(slots, inner[0].mu["a"][:, alive[0]])


@pytest.mark.parametrize(("round_to", "width"), [(1, 3), (2, 4), (4, 4), (5, 5), (16, 7)])
def test_widths_are_rounded_up(round_to, width):
    params = {"a": jnp.ones((3, 7)), "b": jnp.ones(7), "c": jnp.ones((7, 2))}
    groups = sparsejax.coupled_groups(mlp, params, jnp.ones((1, 3))).groups
    alive = [np.array([False, True, True, False, True, False, False])]
    smaller = remove_units(groups, alive, masked(groups, alive, params)[1], round_to=round_to)
    assert smaller.params["a"].shape == (3, width)
    assert int((smaller.params["b"] != 0).sum()) == 3


def test_what_cannot_be_cut_is_refused():
    params = {"a": jnp.ones((3, 7)), "b": jnp.ones(7), "c": jnp.ones((7, 2))}
    groups = sparsejax.coupled_groups(mlp, params, jnp.ones((1, 3))).groups
    some, none = [np.arange(7) < 3], [np.zeros(7, bool)]
    with pytest.raises(ValueError, match="no unit of 'a' lives"):
        remove_units(groups, none, params)
    with pytest.raises(ValueError, match="dead units of 'a' feed something else than 0"):
        remove_units([groups[0]._replace(feeds=0.5)], some, params)
    with pytest.raises(ValueError, match="only together with the optimizer"):
        remove_units(groups, some, params, opt_state=optax.sgd(0.1).init(params))
    with pytest.raises(ValueError, match="round_to must be at least 1"):
        remove_units(groups, some, params, round_to=0)
