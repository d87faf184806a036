"""Penalties: the gradients of the terms that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax

PARAMS = {
    "kernel": jax.random.normal(jax.random.key(0), (5, 6)).at[:, 1].set(0),
    "bias": jnp.ones(6),
}
GRADS = jax.tree.map(jnp.ones_like, PARAMS)


def _added(tx):
    updates, _ = jax.jit(tx.update)(GRADS, tx.init(PARAMS), PARAMS)
    return jax.tree.map(lambda u, g: np.asarray(u - g), updates, GRADS)


def _slopes(groups, coefficient):
    """The derivative of λ Σ √n |w_G| by finite differences in double precision."""
    w = np.asarray(PARAMS["kernel"], np.float64)

    def term(w):
        return coefficient * sum(np.sqrt(w[g].size) * np.linalg.norm(w[g]) for g in groups)

    slopes = np.zeros_like(w)
    for i in np.ndindex(w.shape):
        if any(w[g].any() for g in groups if _has(g, i)):
            up, down = w.copy(), w.copy()
            up[i], down[i] = up[i] + 1e-6, down[i] - 1e-6
            slopes[i] = (term(up) - term(down)) / 2e-6
    return slopes


def _has(group, index):
    inside = np.zeros((5, 6), bool)
    inside[group] = True
    return inside[index]


SINGLE = [np.s_[i, j] for i in range(5) for j in range(6)]
CHANNELS = [np.s_[:, j] for j in range(6)]
# Blocks of (2, 4): those at the ends are smaller.
BLOCKS = [np.s_[i : i + 2, j : j + 4] for i in (0, 2, 4) for j in (0, 4)]


@pytest.mark.parametrize(
    ("tx", "groups"),
    [
        (sparsejax.l1(0.3), SINGLE),
        (sparsejax.group_lasso(0.3, structure=sparsejax.channel()), CHANNELS),
        (sparsejax.group_lasso(0.3, structure=sparsejax.block((2, 4))), BLOCKS),
    ],
    ids=["l1", "channel", "block"],
)
def test_what_is_added_is_the_slope_of_the_term(tx, groups):
    added = _added(tx)
    np.testing.assert_allclose(added["kernel"], _slopes(groups, 0.3), atol=1e-5)
    assert not added["bias"].any()


def test_all_parameters_may_be_penalised_and_precision_is_kept():
    tx = sparsejax.l1(0.5, prunable=lambda path, leaf: True)
    np.testing.assert_array_equal(_added(tx)["bias"], 0.5)
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["kernel"].dtype == jnp.bfloat16


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="coefficient must not be negative, got -1"):
        sparsejax.l1(-1)
    with pytest.raises(ValueError, match="no parameter is prunable"):
        sparsejax.l1(1.0).init({"bias": jnp.ones(2)})
    with pytest.raises(ValueError, match="does not fit 'kernel'"):
        sparsejax.group_lasso(1.0, structure=sparsejax.block((1, 1, 1))).init(PARAMS)
    tx = sparsejax.group_lasso(1.0, structure=sparsejax.constant_fan_in())
    with pytest.raises(ValueError, match=r"constant fan-in says .* makes no groups"):
        tx.init(PARAMS)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(PARAMS, ())
