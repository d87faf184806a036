"""Hard concrete gates, against the paper's formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.reparameterization import Gated, l0

LOW, HIGH, BETA = -0.1, 1.1, 2 / 3
LOG_A = np.linspace(-3, 3, 7)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _open(log_a):
    """P(z > 0), from the distribution function of the stretched variable at 0."""
    x = (0 - LOW) / (HIGH - LOW)
    return 1 - sigmoid(BETA * (np.log(x) - np.log(1 - x)) - log_a)


def test_gates_are_drawn_from_the_distribution():
    """Values against u drawn in NumPy: quantiles, and the shares of exact zeros and ones."""
    n = 4000
    theta = {"w": Gated(jnp.ones((n, 7)), jnp.broadcast_to(jnp.float32(LOG_A), (n, 7)))}
    z = np.sort(l0(1.0).apply(theta, 0, jax.random.key(0))["w"], axis=0)
    u = (np.arange(n) + 0.5) / n
    s = sigmoid((np.log(u) - np.log(1 - u))[:, None] / BETA + LOG_A / BETA)
    expected = np.clip(s * (HIGH - LOW) + LOW, 0, 1)
    np.testing.assert_allclose(z.mean(0), expected.mean(0), atol=0.03)
    np.testing.assert_allclose((z > 0).mean(0), _open(LOG_A), atol=0.03)
    np.testing.assert_allclose((z == 1).mean(0), (expected == 1).mean(0), atol=0.03)


def test_the_penalty_is_the_expected_number_of_weights():
    theta = {"w": Gated(jnp.ones((3, 7)), jnp.broadcast_to(jnp.float32(LOG_A), (3, 7)))}
    expected = 0.2 * 3 * _open(LOG_A).sum()
    np.testing.assert_allclose(l0(0.2).penalty(theta, 0), expected, rtol=1e-4)


def test_a_group_has_one_gate_and_counts_its_weights():
    method = l0(1.0, structure=sparsejax.channel(-2))
    params = {"w": jnp.ones((7, 5))}
    theta = method.init(params, jax.random.key(0))
    assert theta["w"].gate.shape == (7, 1)
    theta = {"w": Gated(params["w"], jnp.float32(LOG_A)[:, None])}
    np.testing.assert_allclose(method.penalty(theta, 0), 5 * _open(LOG_A).sum(), rtol=1e-4)
    z = np.asarray(method.apply(theta, 0, jax.random.key(1))["w"])
    np.testing.assert_array_equal(z, np.broadcast_to(z[:, :1], z.shape))
    final, masks = method.finish(theta)
    gates = np.clip(sigmoid(LOG_A) * (HIGH - LOW) + LOW, 0, 1)
    np.testing.assert_allclose(final["w"], np.repeat(gates[:, None], 5, 1), rtol=1e-5)
    np.testing.assert_array_equal(masks["w"], gates[:, None] > 0)
    assert 0 < masks["w"].sum() < 7


def test_gates_begin_at_the_drop_rate_and_learn():
    method = l0(0.0, drop_rate=0.2)
    theta = method.init({"w": jnp.ones((40, 50))}, jax.random.key(0))
    gate = np.asarray(theta["w"].gate)
    assert abs(gate.mean() - np.log(0.8 / 0.2)) < 1e-3
    assert abs(gate.std() - 0.01) < 1e-3
    key = jax.random.key(1)
    grads = jax.grad(lambda t: jnp.sum(method.apply(t, 0, key)["w"]))(theta)["w"].gate
    z = np.asarray(method.apply(theta, 0, key)["w"])
    np.testing.assert_array_equal(grads > 0, (z > 0) & (z < 1))
    with pytest.raises(ValueError, match="drop_rate must lie between 0 and 1"):
        l0(0.1, drop_rate=1.0)
