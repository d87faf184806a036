"""What is captured of a traced function: against the products themselves."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import calibrate, find_layers


def _random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@jax.custom_jvp
def _double(x):
    return 2 * x


_double.defjvp(lambda primals, tangents: (_double(*primals), 2 * tangents[0]))

# Functions of one parameter that return its product [..., outputs], with the shapes of w and x.
PRODUCTS = {
    "dense": (lambda w, x: x @ w, (3, 4), (5, 3)),
    "positions": (lambda w, x: x @ w, (3, 4), (2, 5, 3)),
    "outputs first": (lambda w, x: jax.vmap(lambda x: w @ x)(x), (4, 3), (5, 3)),
    "transposed": (lambda w, x: jnp.dot(x, w.T), (4, 3), (5, 3)),
    "heads out": (lambda w, x: jnp.einsum("bi,ihd->bhd", x, w).reshape(5, -1), (3, 2, 4), (5, 3)),
    "heads in": (lambda w, x: jnp.einsum("bhd,hdo->bo", x, w), (2, 3, 4), (5, 2, 3)),
    "reshaped": (lambda w, x: x @ w.reshape(6, 2)[:, None].squeeze(1), (3, 4), (5, 6)),
    "cast": (lambda w, x: x @ w.astype(jnp.bfloat16).astype(jnp.float32), (3, 4), (5, 3)),
    "jit": (jax.jit(lambda w, x: x @ w.T), (4, 3), (5, 3)),
    "remat": (jax.checkpoint(lambda w, x: jnp.sin(x @ jnp.transpose(w))), (4, 3), (5, 3)),
    "derivative of its own": (lambda w, x: _double(jax.jit(jnp.dot)(x, w)), (3, 4), (5, 3)),
    "pointwise convolution": (
        lambda w, x: nn.Conv(4, (1, 1), use_bias=False).apply({"params": {"kernel": w}}, x),
        (1, 1, 3, 4),
        (2, 5, 5, 3),
    ),
    "convolution": (
        lambda w, x: nn.Conv(
            4, (3, 2), strides=(2, 1), kernel_dilation=(1, 2), use_bias=False
        ).apply({"params": {"kernel": w}}, x),
        (3, 2, 3, 4),
        (2, 7, 6, 3),
    ),
    "channels first": (
        lambda w, x: jnp.moveaxis(jax.lax.conv(x, w, (1, 1), "SAME"), 1, -1),
        (4, 3, 3, 3),
        (2, 3, 6, 5),
    ),
}
_UNDO = {"remat": jnp.arcsin, "derivative of its own": lambda y: y / 2}


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_outputs_products_follow_from_the_inputs(name):
    """Y = X W, so that Yᵀ Y = Wᵀ (Xᵀ X) W: features and matrix are in one order."""
    product, w_shape, x_shape = PRODUCTS[name]
    w, x = 0.1 * _random(*w_shape), _random(*x_shape, seed=1)
    apply = lambda p, x: {"out": product(p["w"], x)}  # noqa: E731
    inputs = calibrate(apply, {"w": w}, [x, 2 * x])["w"]
    layer = find_layers(apply, {"w": w}, x)["w"]
    (matrix,) = layer.to_matrices(w)
    y = _UNDO.get(name, lambda y: y)(product(w, x))
    y = np.asarray(y, np.float64).reshape(-1, matrix.shape[1])
    expected = 5 * y.T @ y  # of x and of 2 x
    np.testing.assert_allclose(matrix.T @ inputs.gram[0] @ matrix, expected, rtol=2e-2, atol=2e-3)
    np.testing.assert_allclose(inputs.sums[0] @ matrix, 3 * y.sum(0), rtol=2e-2, atol=2e-3)
    np.testing.assert_allclose(inputs.squares[0], np.diagonal(inputs.gram[0]), rtol=1e-5)
    assert inputs.count.tolist() == [2 * len(y)]
    np.testing.assert_array_equal(layer.to_leaf(layer.to_matrices(w)), w)


@pytest.mark.parametrize("kind", ["batch of matrices", "grouped convolution"])
def test_each_group_has_inputs_of_its_own(kind):
    if kind == "batch of matrices":
        w, x = _random(2, 3, 4), _random(5, 2, 3, seed=1)
        apply = lambda p, x: jnp.einsum("bgi,gio->gbo", x, p["w"])  # noqa: E731
        y = apply({"w": w}, x)
    else:
        w, x = _random(3, 1, 2, 8), _random(2, 5, 3, 4, seed=1)
        conv = nn.Conv(8, (3, 1), feature_group_count=2, use_bias=False)
        apply = lambda p, x: conv.apply({"params": {"kernel": p["w"]}}, x)  # noqa: E731
        y = apply({"w": w}, x).reshape(-1, 2, 4).swapaxes(0, 1)
    inputs = calibrate(apply, {"w": w}, [x])["w"]
    matrices = find_layers(apply, {"w": w}, x)["w"].to_matrices(w)
    assert len(matrices) == 2
    for group in range(2):
        found = matrices[group].T @ inputs.gram[group] @ matrices[group]
        np.testing.assert_allclose(found, y[group].T @ y[group], rtol=1e-4, atol=1e-3)


def test_a_network_is_captured_in_the_order_of_its_layers():
    model = eqx.nn.MLP(3, 2, 7, 2, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_array)
    x = _random(5, 3, seed=1)
    apply = lambda p, x: jax.vmap(eqx.combine(p, static))(x)  # noqa: E731
    inputs = calibrate(apply, params, [x[:2], x[2:4]], gram=False)
    assert list(inputs) == [f"layers/{i}/weight" for i in range(3)]
    hidden = x[:4]
    for layer, of_layer in zip(model.layers, inputs.values(), strict=True):
        assert of_layer.gram is None
        h = np.asarray(hidden, np.float64)
        np.testing.assert_allclose(of_layer.norms[0], np.sqrt((h**2).sum(0)), rtol=1e-5)
        np.testing.assert_allclose(of_layer.mean[0], h.mean(0), rtol=1e-5)
        np.testing.assert_allclose(of_layer.variance[0], h.var(0), rtol=1e-4, atol=1e-6)
        hidden = jax.nn.relu(jax.vmap(layer)(hidden))


def test_low_precision_is_summed_in_float32():
    params = {"w": jnp.ones((2, 2), jnp.bfloat16)}
    x = jnp.full((1024, 2), 1.0078125, jnp.bfloat16)
    inputs = calibrate(lambda p, x: x @ p["w"], params, [x])["w"]
    assert inputs.gram.dtype == jnp.float32
    # A sum in bfloat16 stops growing at 256.
    np.testing.assert_allclose(inputs.gram, np.full((1, 2, 2), 1024 * 1.0078125**2), rtol=1e-5)


def test_a_parameter_of_two_products_has_the_inputs_of_both():
    w = _random(3, 3)
    x = _random(5, 3, seed=1)
    inputs = calibrate(lambda p, x: x @ p["w"] @ p["w"], {"w": w}, [x])["w"]
    expected = x.T @ x + (x @ w).T @ (x @ w)
    np.testing.assert_allclose(inputs.gram[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("apply", "reason"),
    [
        (lambda w, x: jax.lax.scan(lambda c, w: (c @ w, None), x, w[None])[0], "reaches 'scan'"),
        (lambda w, x: x @ (2 * w), "reaches 'mul'"),
        (lambda w, x: x, "does not use it"),
        (lambda w, x: x @ w + jnp.sum(w), "reaches 'reduce_sum'"),
        (lambda w, x: x @ (w @ w), "reaches 'dot_general'"),
        (lambda w, x: x @ w @ w.T, "two products that see it as different matrices"),
        (lambda w, x: x @ w[:, :2], "reaches 'slice'"),
        (lambda w, x: x @ jnp.broadcast_to(w[None], (2, 3, 3)).reshape(3, 6), "'broadcast_in_dim'"),
    ],
)
def test_what_cannot_be_captured_is_named(apply, reason):
    params = {"first": {"kernel": jnp.ones((3, 3))}, "second": {"kernel": jnp.ones((3, 3))}}
    forward = lambda p, x: apply(p["second"]["kernel"], x @ p["first"]["kernel"])  # noqa: E731
    with pytest.raises(ValueError, match=rf"'second/kernel' cannot be captured: .*{reason}"):
        calibrate(forward, params, [jnp.ones((5, 3))])
    only_first = lambda path, leaf: path == "first/kernel"  # noqa: E731
    assert list(calibrate(forward, params, [jnp.ones((5, 3))], prunable=only_first)) == [
        "first/kernel"
    ]


def test_there_must_be_something_to_capture():
    apply = lambda p, x: x @ p["w"]  # noqa: E731
    with pytest.raises(ValueError, match="at least one batch"):
        calibrate(apply, {"w": jnp.ones((3, 3))}, [])
    with pytest.raises(ValueError, match="no parameter is prunable"):
        calibrate(lambda p, x: x * p["b"], {"b": jnp.ones(3)}, [jnp.ones((1, 3))])


def test_batches_of_one_shape_are_compiled_once():
    traces = []

    def apply(p, x):
        traces.append(x.shape)
        return x @ p["w"]

    batches = [jnp.ones((n, 3)) for n in (4, 4, 4, 2)]
    sums = functools.partial(calibrate, apply, {"w": jnp.ones((3, 3))})
    assert sums(batches)["w"].count.tolist() == [14]
    assert traces == [(4, 3), (2, 3)]
