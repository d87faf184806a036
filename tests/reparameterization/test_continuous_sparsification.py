"""Continuous sparsification, against the paper's formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.reparameterization import Gated, continuous_sparsification

W, S = np.random.default_rng(0).normal(size=(2, 5, 4))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture
def method():
    return continuous_sparsification(10, strength=0.5, initial=-0.25, final_temperature=50.0)


@pytest.fixture
def theta():
    return {"w": Gated(jnp.float32(W), jnp.float32(0.1 * S)), "bias": jnp.ones(4)}


def test_the_network_begins_as_it_is(method):
    params = {"w": jnp.float32(W), "bias": jnp.ones(4)}
    theta = method.init(params, jax.random.key(0))
    np.testing.assert_array_equal(theta["w"].gate, np.float32(-0.25))
    np.testing.assert_allclose(method.apply(theta, 0, None)["w"], W, rtol=1e-5)


@pytest.mark.parametrize("step", [0, 3, 10, 15])
def test_values_penalties_and_gradients(method, theta, step):
    beta = 50 ** min(step / 10, 1)
    gates = sigmoid(beta * 0.1 * S)
    used = method.apply(theta, step, None)
    np.testing.assert_allclose(used["w"], W * gates / sigmoid(-0.25), rtol=1e-4)
    np.testing.assert_allclose(method.penalty(theta, step), 0.5 * gates.sum(), rtol=1e-4)
    grads = jax.grad(lambda t: jnp.sum(method.apply(t, step, None)["w"]) + method.penalty(t, step))(
        theta
    )
    slope = beta * gates * (1 - gates) * (W / sigmoid(-0.25) + 0.5)
    np.testing.assert_allclose(grads["w"].gate, slope, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(grads["w"].weight, gates / sigmoid(-0.25), rtol=1e-4)


def test_in_the_end_gates_are_open_or_shut(method, theta):
    params, masks = method.finish(theta)
    np.testing.assert_array_equal(masks["w"], S > 0)
    np.testing.assert_allclose(params["w"], np.where(S > 0, W, 0) / sigmoid(-0.25), rtol=1e-5)


def test_a_training_has_steps():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        continuous_sparsification(0)
