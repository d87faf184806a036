"""Products with sparse matrices against dense ones: values, gradients, transformations, threads."""

import concurrent.futures
import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import formats, kernels
from sparsejax.kernels import cpu, sparse_matmul

FORMATS = {
    "bitmask": formats.Bitmask.from_dense,
    "bsr": lambda array, mask: formats.BSR.from_dense(array, mask, (4, 4)),
    "coo": formats.COO.from_dense,
    "csc": formats.CSC.from_dense,
    "csr": formats.CSR.from_dense,
    "dense": formats.Dense.from_dense,
    "fan-in": formats.FanIn.from_dense,
    "3:4": lambda array, mask: formats.NM.from_dense(array, mask, 3, 4),
    "indexed": lambda array, mask: kernels.index(formats.CSC.from_dense(array, mask)),
}
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2, "float64": 1e-12}


def problem(batch, inputs, outputs, density, dtype=np.float32, seed=0):
    """Inputs, weights, a mask, and a gradient that comes back."""
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(batch, inputs)), rng.normal(size=(inputs, outputs))
    dy = rng.normal(size=(batch, outputs))
    mask = rng.random((inputs, outputs)) < density
    return *(jnp.asarray(a, dtype) for a in (x, w, dy)), mask


def expected(x, w, dy, mask):
    """The product, and the gradient of the inputs, in float64."""
    x, w, dy = (np.asarray(a, np.float64) for a in (x, w, dy))
    w = np.where(mask, w, 0)
    return x @ w, dy @ w.T


def product_and_gradients(x, stored, dy, backend="cpu"):
    def product(x, values):
        w = dataclasses.replace(stored, values=values)
        return sparse_matmul(x, w, backend=backend)

    y, back = jax.vjp(product, x, stored.values)
    return y, *back(dy)


def assert_right(got, x, w, dy, mask, stored):
    """Compares with dense arithmetic; the gradient of the values at each stored entry."""
    tolerance = TOLERANCE[x.dtype.name]
    y, dx = expected(x, w, dy, mask)
    rows, columns = map(np.asarray, stored.coordinates())
    inside = (rows < w.shape[0]) & (columns < w.shape[1])
    full = np.asarray(x, np.float64).T @ np.asarray(dy, np.float64)
    dvalues = np.zeros(rows.shape)
    dvalues[inside] = full[rows[inside], columns[inside]]
    for have, want in zip(got, (y, dx, dvalues.reshape(stored.values.shape)), strict=True):
        assert have.dtype == x.dtype and have.shape == want.shape
        scale = max(np.abs(want).max(initial=0), 1)
        np.testing.assert_allclose(
            np.asarray(have, np.float64) / scale, want / scale, atol=tolerance
        )


def test_the_kernels_work_on_this_machine():
    assert cpu.why_not() is None
    assert kernels.default_backend(jnp.float32) == "cpu"


@pytest.mark.parametrize(
    ("name", "backend"),
    [(name, "cpu") for name in FORMATS]
    + [(name, backend) for name in ("bsr", "csc") for backend in ("bcsr", "dense")],
)
def test_every_format_and_backend(name, backend):
    x, w, dy, _ = problem(5, 10, 7, 0.4)
    mask = np.zeros((10, 7), bool)
    for j in range(1, 7):  # a constant fan-in, one neuron ablated, no more than 3 of 4 neighbours
        mask[[j % 4, 4 + j % 4, 8], j] = True
    stored = FORMATS[name](w, mask)
    got = jax.jit(product_and_gradients, static_argnums=3)(x, stored, dy, backend)
    assert_right(got, x, w, dy, mask, stored)


SHAPES = [
    (1, 3, 5, 0.5),
    (2, 17, 1, 0.5),
    (3, 1, 9, 0.5),
    (100, 33, 29, 0.1),
    (16, 40, 50, 0.0),
    (8, 20, 30, 1.0),
    (0, 4, 3, 0.5),
    (4, 0, 3, 0.5),
    (4, 3, 0, 0.5),
    (200, 64, 48, 0.2),
    (32, 5000, 3, 0.05),
    (129, 19, 37, 0.9),
]


@pytest.mark.parametrize(("batch", "inputs", "outputs", "density"), SHAPES)
def test_awkward_shapes(batch, inputs, outputs, density):
    x, w, dy, mask = problem(batch, inputs, outputs, density)
    for format in (formats.CSR, formats.CSC):  # values in the order of one direction or the other
        stored = kernels.index(format.from_dense(w, mask))
        got = jax.jit(product_and_gradients)(x, stored, dy)
        assert_right(got, x, w, dy, mask, stored)
        np.testing.assert_array_equal(stored.todense(), np.where(mask, w, 0))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_types(dtype):
    with jax.enable_x64(dtype == "float64"):
        x, w, dy, mask = problem(70, 24, 18, 0.3, dtype)
        stored = formats.Bitmask.from_dense(w, mask)
        got = jax.jit(product_and_gradients)(x, stored, dy)
        assert_right(got, x, w, dy, mask, stored)
    mixed = sparse_matmul(x.astype(jnp.float32), formats.Bitmask.from_dense(jnp.int8(mask), mask))
    assert mixed.dtype == jnp.float32
    whole = sparse_matmul(jnp.ones((2, 24), jnp.int8), formats.COO.from_dense(jnp.int8(mask), mask))
    assert whole.dtype == jnp.int8
    np.testing.assert_array_equal(whole[0], mask.sum(0))


def test_more_axes_of_inputs_and_of_weights():
    x, w, _, mask = problem(6, 12, 5, 0.5)
    stored = formats.CSR.from_dense(w.reshape(2, 3, 2, 5), mask.reshape(2, 3, 2, 5))
    y = expected(x, w, np.zeros((6, 5)), mask)[0]
    got = sparse_matmul(x.reshape(2, 3, 12), stored)
    np.testing.assert_allclose(got, y.reshape(2, 3, 5), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sparse_matmul(x[0], stored), y[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batched", ["x", "values", "both"])
def test_vmap(batched):
    x, w, dy, mask = problem(4, 6, 5, 0.5)
    stored = kernels.index(formats.COO.from_dense(w, mask))
    xs = jnp.stack([x, 2 * x, -x]) if batched != "values" else x
    values = jnp.stack([stored.values, stored.values + 1, 3 * stored.values])
    values = values if batched != "x" else stored.values
    axes = (0 if batched != "values" else None, 0 if batched != "x" else None)

    def one(backend, x, values):
        w = stored.with_values(values)
        y, back = jax.vjp(
            lambda x, v: sparse_matmul(x, w.with_values(v), backend=backend), x, values
        )
        return y, *back(dy)

    got, want = (
        jax.jit(jax.vmap(lambda x, v, b=backend: one(b, x, v), axes))(xs, values)
        for backend in ("cpu", "dense")
    )
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_matrix_may_be_indexed_in_the_program_or_before_it():
    _, w, _, mask = problem(9, 30, 20, 0.2)
    stored = formats.CSC.from_dense(w, mask)
    before = kernels.index(stored)
    within = jax.jit(kernels.index)(stored)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(within), strict=True):
        np.testing.assert_array_equal(a, b)
    rows, columns = np.nonzero(mask)
    np.testing.assert_array_equal(before.columns, columns)
    np.testing.assert_array_equal(before.row_pointers, np.searchsorted(rows, np.arange(31)))
    np.testing.assert_array_equal(before.rows, np.nonzero(mask.T)[1])
    np.testing.assert_array_equal(stored.values[before.by_row], w[mask])


def test_no_dense_gradient_is_computed():
    x, w, dy, mask = problem(8, 300, 200, 0.01)
    stored = kernels.index(formats.CSR.from_dense(w, mask))
    program = str(jax.make_jaxpr(product_and_gradients)(x, stored, dy))
    assert "dot_general" not in program and "300,200" not in program.replace(" ", "")


def test_calls_from_many_threads_at_once():
    problems = [problem(b, 200, 150, 0.1, seed=b) for b in (1, 8, 64, 130)]
    stored = [kernels.index(formats.CSR.from_dense(w, mask)) for _, w, _, mask in problems]
    run = jax.jit(product_and_gradients)
    once = [
        jax.block_until_ready(run(p[0], s, p[2])) for p, s in zip(problems, stored, strict=True)
    ]

    def again(number):
        p, s = problems[number % 4], stored[number % 4]
        return jax.block_until_ready(run(p[0], s, p[2]))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for number, got in enumerate(pool.map(again, range(400))):
            for a, b in zip(got, once[number % 4], strict=True):
                np.testing.assert_array_equal(a, b)  # the order of the sums is fixed


def test_second_derivatives_are_refused_and_named():
    x, w, _, mask = problem(3, 4, 5, 0.5)
    stored = kernels.index(formats.COO.from_dense(w, mask))

    def loss(x, backend):
        return (sparse_matmul(x, stored, backend=backend) ** 3).sum()

    with pytest.raises(NotImplementedError, match="differentiated once by the backend 'cpu'"):
        jax.hessian(loss)(x[0], "cpu")
    with pytest.raises(NotImplementedError, match="differentiated once by the backend 'cpu'"):
        jax.grad(lambda x: jax.grad(loss)(x, "cpu").sum())(x)
    assert jax.hessian(loss)(x[0], "dense").shape == (4, 4)


def test_what_does_not_fit_is_refused():
    x, w, _, mask = problem(3, 4, 5, 0.5)
    stored = formats.COO.from_dense(w, mask)
    with pytest.raises(ValueError, match="but w has 4 inputs"):
        sparse_matmul(x.T, stored)
    with pytest.raises(ValueError, match="no backend 'gpu'; there are dense, bcsr, cpu, pallas"):
        sparse_matmul(x, stored, backend="gpu")
    with pytest.raises(ValueError, match="floating-point numbers, not with int32"):
        sparse_matmul(jnp.ones((3, 4), int), formats.COO.from_dense(mask, mask), backend="cpu")
    with pytest.raises(ValueError, match="values are needed"):
        kernels.index(stored).with_values(jnp.ones(1000))


def test_without_numba_there_is_the_dense_product(monkeypatch):
    x, w, _, mask = problem(3, 4, 5, 0.5)
    stored = formats.COO.from_dense(w, mask)
    want = sparse_matmul(x, stored)
    monkeypatch.delitem(sys.modules, "sparsejax.kernels.cpu")
    monkeypatch.delattr(kernels, "cpu")
    monkeypatch.setitem(sys.modules, "numba", None)
    assert "pip install 'sparsejax[kernels]'" in kernels.why_not("cpu", jnp.float32)
    np.testing.assert_allclose(sparse_matmul(x, stored), want, rtol=1e-6)


def test_another_version_of_the_interface_is_not_spoken(monkeypatch, tmp_path):
    from sparsejax.kernels import call_frame

    header = tmp_path / "xla" / "ffi" / "api" / "c_api.h"
    header.parent.mkdir(parents=True)
    monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path))
    assert "has no c_api.h" in call_frame.why_not()
    header.write_text("#define XLA_FFI_API_MAJOR 1\n#define XLA_FFI_API_MINOR 0\n")
    assert call_frame.why_not() == "XLA's foreign function interface is 1.0, not 0.3"
    header.write_text("nothing")
    assert "an unknown version" in call_frame.why_not()
