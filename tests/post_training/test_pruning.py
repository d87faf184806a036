"""Pruning after training, against the papers' procedures written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax import dsnot, magnitude_masks, sparsegpt, wanda
from sparsejax.rounding import portion


def _apply(params, x):
    return jax.nn.relu(x @ params["a"]) @ params["b"]


@pytest.fixture
def params():
    keys = jax.random.split(jax.random.key(0))
    return {"a": jax.random.normal(keys[0], (12, 8)), "b": jax.random.normal(keys[1], (8, 5))}


@pytest.fixture
def batches():
    """Inputs of unequal sizes, correlated and not centred."""
    keys = jax.random.split(jax.random.key(1), 3)
    mixing = jax.random.normal(keys[0], (12, 12)) * jnp.linspace(0.2, 2, 12)
    return [jax.random.normal(key, (40, 12)) @ mixing + 0.5 for key in keys[1:]]


def _inputs_of_b(params, masks, batches):
    """The inputs of the second layer behind the pruned first one."""
    x = np.concatenate(batches).astype(np.float64)
    return np.maximum(x @ np.where(masks["a"], params["a"], 0).astype(np.float64), 0)


def _wanda(w, x, pruned):
    mask = np.ones(w.shape, bool)
    for o in range(w.shape[1]):
        score = [abs(w[i, o]) * np.sqrt(sum(x[:, i] ** 2)) for i in range(len(w))]
        mask[np.argsort(score)[:pruned], o] = False
    return mask


def test_magnitude_prunes_each_layer_alike(params):
    masks = magnitude_masks(params, 0.3)
    for name, w in params.items():
        limit = np.sort(np.abs(w).ravel())[round(0.3 * w.size)]
        np.testing.assert_array_equal(masks[name], np.abs(w) >= limit)


def test_wanda_is_the_papers_layer_after_layer(params, batches):
    masks = wanda(_apply, params, batches, 0.5)
    np.testing.assert_array_equal(masks["a"], _wanda(params["a"], np.concatenate(batches), 6))
    x = _inputs_of_b(params, masks, batches)
    np.testing.assert_array_equal(masks["b"], _wanda(params["b"], x, 4))
    dense = _inputs_of_b(params, {"a": True}, batches)
    assert not np.array_equal(masks["b"], _wanda(params["b"], dense, 4))
    together = wanda(_apply, params, batches, 0.5, stage_of=lambda path: "all")
    np.testing.assert_array_equal(together["b"], _wanda(params["b"], dense, 4))


def test_wanda_prunes_n_of_m(params, batches):
    masks = wanda(_apply, params, batches, 0.5, structure=sparsejax.nm(2, 4))
    x = np.concatenate(batches)
    for i in range(0, 12, 4):
        expected = _wanda(params["a"][i : i + 4], x[:, i : i + 4], 2)
        np.testing.assert_array_equal(masks["a"][i : i + 4], expected)


def _brain_surgeon(w, x, block, sparsity, m=None):
    """Input by input, with the inverse Hessian of those that are left written out each time."""
    w, x = np.array(w, np.float64), np.array(x, np.float64)
    n, outputs = w.shape
    hessian = x.T @ x
    for i in range(n):
        if hessian[i, i] == 0:
            hessian[i, i], w[i] = len(x), 0
    hessian += 0.01 * np.mean(np.diagonal(hessian)) * np.eye(n)
    inverse = [np.linalg.inv(hessian[i:, i:]) for i in range(n)]
    mask = np.ones((n, outputs), bool)
    for i in range(n):
        if i % (m or block) == 0:
            end = min(i + (m or block), n)
            scores = np.array([w[j] ** 2 / inverse[j][0, 0] for j in range(i, end)])
            if m:
                for o in range(outputs):
                    mask[i + np.argsort(scores[:, o])[: m // 2], o] = False
            else:
                before = portion(i * outputs, 1 - sparsity)
                pruned = (end - i) * outputs - (portion(end * outputs, 1 - sparsity) - before)
                chosen = np.ones(scores.size, bool)
                chosen[np.argsort(scores.ravel())[:pruned]] = False
                mask[i:end] = chosen.reshape(scores.shape)
        for o in range(outputs):
            if not mask[i, o]:
                w[i:, o] -= w[i, o] / inverse[i][0, 0] * inverse[i][0]
    return np.where(mask, w, 0), mask


@pytest.mark.parametrize(("block", "sparsity", "m"), [(5, 0.33, None), (8, 0.5, 4)])
def test_sparsegpt_is_the_optimal_brain_surgeon(block, sparsity, m, params, batches):
    structure = sparsejax.nm(m // 2, m) if m else None
    batches = [x.at[:, 3].set(0) for x in batches]  # an input that is always 0
    pruned, masks = sparsegpt(
        _apply, params, batches, sparsity, structure=structure, block_size=block
    )
    x = np.concatenate(batches)
    expected, mask = _brain_surgeon(params["a"], x, block, sparsity, m)
    np.testing.assert_array_equal(masks["a"], mask)
    np.testing.assert_allclose(pruned["a"], expected, rtol=2e-3, atol=2e-3)
    hidden = np.maximum(x @ pruned["a"], 0)
    expected, mask = _brain_surgeon(params["b"], hidden, block, sparsity, m)
    np.testing.assert_array_equal(masks["b"], mask)
    np.testing.assert_allclose(pruned["b"], expected, rtol=2e-3, atol=2e-3)
    for name, w in params.items():
        assert int(masks[name].sum()) == portion(w.size, 1 - sparsity)
        assert not np.asarray(pruned[name])[~np.asarray(masks[name])].any()


def test_each_method_errs_less_than_the_one_before(params, batches):
    x = np.concatenate(batches)
    only_a = {"sparsity": 0.5, "prunable": lambda path, leaf: path == "a"}
    by_size = magnitude_masks(params, **only_a)
    by_wanda = wanda(_apply, params, batches, **only_a)
    networks = [
        sparsejax.apply_masks(params, by_size),
        sparsejax.apply_masks(params, by_wanda),
        sparsegpt(_apply, params, batches, **only_a).params,
    ]
    errors = [float(((x @ (p["a"] - params["a"])) ** 2).mean()) for p in networks]
    assert errors[0] > errors[1] > errors[2]
    for network in networks:
        np.testing.assert_array_equal(network["b"], params["b"])


def _no_training(w, x, mask, cycles, threshold, m=None):
    mask = np.array(mask)
    mean, variance = x.mean(0), x.var(0)
    norms = np.sqrt((x**2).sum(0))
    for o in range(w.shape[1]):
        ups = {i for i in range(len(w)) if not mask[i, o]}
        downs = {i for i in range(len(w)) if mask[i, o]}
        error = sum(w[i, o] * mean[i] for i in ups)
        first = np.sign(error)
        for _ in range(cycles):
            s = np.sign(error)
            up = [i for i in ups if s * w[i, o] * mean[i] > 0]
            if abs(error) <= threshold or not up:
                break
            up = max(up, key=lambda i: s * w[i, o] * mean[i] / variance[i])
            if m:
                down = [i for i in downs if i // m == up // m]
            else:
                down = [i for i in downs if s * w[i, o] * mean[i] < 0]
            if not down:
                break
            down = min(down, key=lambda i: abs(w[i, o]) * norms[i])
            after = error + w[down, o] * mean[down] - w[up, o] * mean[up]
            if abs(after) >= abs(error) or (m and np.sign(after) != first):
                break
            error = after
            ups.remove(up)
            downs.remove(down)
            mask[up, o], mask[down, o] = True, False
    return mask


@pytest.mark.parametrize(("cycles", "m"), [(1, None), (50, None), (50, 4)])
def test_dsnot_exchanges_as_in_the_paper(cycles, m, params, batches):
    structure = sparsejax.nm(m // 2, m) if m else None
    first = wanda(_apply, params, batches, 0.5, structure=structure)
    masks = dsnot(
        _apply, params, batches, first, structure=structure, cycles=cycles, threshold=0.05
    )
    w = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    x = np.concatenate(batches).astype(np.float64)
    expected = _no_training(w["a"], x, first["a"], cycles, 0.05, m)
    np.testing.assert_array_equal(masks["a"], expected)
    hidden = _inputs_of_b(params, masks, batches)
    expected = _no_training(w["b"], hidden, first["b"], cycles, 0.05, m)
    np.testing.assert_array_equal(masks["b"], expected)
    assert any((masks[name] != first[name]).any() for name in params)
    for name in params:
        np.testing.assert_array_equal(masks[name].sum(0), first[name].sum(0))
        if m:
            assert (masks[name].reshape(-1, m, w[name].shape[1]).sum(1) == m // 2).all()


def test_dsnot_leaves_other_layers_as_they_are(params, batches):
    first = magnitude_masks(params, 0.5)
    masks = dsnot(_apply, params, batches, first, prunable=lambda path, leaf: path == "b")
    np.testing.assert_array_equal(masks["a"], first["a"])
    hidden = _inputs_of_b(params, first, batches)
    expected = _no_training(np.asarray(params["b"], np.float64), hidden, first["b"], 50, 5e-5)
    np.testing.assert_array_equal(masks["b"], expected)


@pytest.mark.parametrize("method", [wanda, sparsegpt])
def test_low_precision_is_pruned_in_float32(method, params, batches):
    low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    high = jax.tree.map(lambda p: p.astype(jnp.float32), low)
    only_a = {"prunable": lambda path, leaf: path == "a"}
    apply = lambda p, x: _apply(jax.tree.map(lambda w: w.astype(jnp.float32), p), x)  # noqa: E731
    found, expected = (method(apply, p, batches, 0.5, **only_a) for p in (low, high))
    if method is sparsegpt:
        assert found.params["a"].dtype == jnp.bfloat16
        np.testing.assert_array_equal(found.params["a"], expected.params["a"].astype(jnp.bfloat16))
        found, expected = found.masks, expected.masks
    np.testing.assert_array_equal(found["a"], expected["a"])
    assert int(found["a"].sum()) == 48


def test_the_sparsity_may_be_traced(params, batches):
    def pruned(sparsity):
        return sparsegpt(_apply, params, batches, sparsity).masks

    found = jax.jit(pruned)(jnp.float32(0.25))
    jax.tree.map(np.testing.assert_array_equal, found, pruned(0.25))


def test_a_layer_of_any_shape_is_seen_as_a_kernel(batches):
    """Heads of an attention layer: each output of each head is an output."""
    w = jax.random.normal(jax.random.key(0), (12, 2, 3))
    apply = lambda p, x: jnp.einsum("bi,ihd->bhd", x, p["w"])  # noqa: E731
    found = wanda(apply, {"w": w}, batches, 0.5)["w"]
    expected = _wanda(w.reshape(12, 6), np.concatenate(batches), 6)
    np.testing.assert_array_equal(found, expected.reshape(w.shape))
    pruned = sparsegpt(apply, {"w": w}, batches, 0.5, structure=sparsejax.nm(1, 2))
    assert (pruned.masks["w"].reshape(6, 2, 2, 3).sum(1) == 1).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda *a: wanda(*a, 1.5), "sparsity must lie between 0 and 1"),
        (lambda *a: wanda(*a, 0.5, structure=sparsejax.nm(2, 5)), "does not fit 'a'.*5 divides"),
        (lambda *a: wanda(*a, 0.9, structure=sparsejax.nm(2, 4)), "2:4 keeps at least 2 of 4"),
        (lambda *a: sparsegpt(*a, 0.5, structure=sparsejax.channel()), "single weights or N:M"),
        (
            lambda *a: sparsegpt(*a, 0.5, structure=sparsejax.constant_fan_in()),
            "not constant fan-in",
        ),
        (
            lambda *a: sparsegpt(*a, 0.5, structure=sparsejax.nm(2, 4), block_size=6),
            "4 must divide the block size, 6",
        ),
        (lambda *a: sparsegpt(*a, 0.5, block_size=0), "block_size must be at least 1"),
        (lambda *a: sparsegpt(*a, 0.5, dampening=0.0), "dampening must be positive"),
        (lambda f, p, b: wanda(f, p, [], 0.5), "at least one batch"),
        (lambda f, p, b: dsnot(f, p, b, {"a": True, "b": True}, cycles=-1), "cycles must not be"),
        (lambda f, p, b: dsnot(f, p, b, {"a": True, "b": True}, threshold=-1), "threshold must"),
        (lambda f, p, b: wanda(f, p, [b[0] * jnp.inf], 0.5), "inputs of 'a' are not finite"),
    ],
)
def test_what_is_wrong_is_refused(call, message, params, batches):
    with pytest.raises(ValueError, match=message):
        call(_apply, params, batches)
