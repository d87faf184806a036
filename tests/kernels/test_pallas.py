"""Kernels for GPUs, run step by step on the CPU: values, gradients, transformations, lowering."""

import dataclasses
import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from sparsejax import formats, kernels
from sparsejax.kernels import sparse_matmul, tune
from sparsejax.kernels.pallas import _tile, block_matmul

TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}


def problem(batch, inputs, outputs, block, density=0.5, dtype="float32"):
    """Inputs, blocks with the first column of them empty, and a gradient that comes back.

    What fills up the blocks beyond the view is not a number: nothing may come of it.
    """
    rng = np.random.default_rng(0)
    blocks = rng.random((-(-inputs // block[0]), -(-outputs // block[1]))) < density
    blocks[:, :1] &= density == 1
    mask = np.kron(blocks, np.ones(block, bool))[:inputs, :outputs]
    x, weights, dy = (
        jnp.asarray(rng.normal(size=size), dtype)
        for size in ((batch, inputs), (inputs, outputs), (batch, outputs))
    )
    w = formats.BSR.from_dense(weights, mask, block)
    values = jnp.where(beyond(w), jnp.nan, w.values)
    return x, dataclasses.replace(w, values=values), dy


def beyond(w):
    """Which stored values lie beyond the end of the view."""
    rows, columns = w.coordinates()
    inputs, outputs = formats.view(w.shape)
    return ((rows >= inputs) | (columns >= outputs)).reshape(w.values.shape)


def expected(x, w, dy):
    """The product and its gradients, from dense ones in float64."""
    dense, x, dy = (np.asarray(a, np.float64) for a in (w.todense(), x, dy))
    full = np.pad(x.T @ dy, [(0, size) for size in w.block])
    rows, columns = (np.asarray(c).reshape(w.values.shape) for c in w.coordinates())
    return x @ dense, dy @ dense.T, full[rows, columns]


def products(x, w, dy, multiply=block_matmul, interpret=True):
    options = {"interpret": True} if interpret else {}
    y, back = jax.vjp(lambda x, w: multiply(x, w, **options), x, w)
    dx, dw = back(dy)
    return y, dx, dw.values


@pytest.mark.parametrize(
    "case",
    [
        (5, 10, 7, (4, 4)),
        (1, 50, 33, (3, 5), 1, "bfloat16"),
        (70, 140, 150, (130, 70), 0.6, "float16"),  # several tiles in the batch, and in a block
    ],
    ids=str,
)
def test_products_are_those_of_the_dense_matrix(case):
    x, w, dy = problem(*case)
    got = jax.jit(products)(x, w, dy)
    for have, want in zip(got, expected(x, w, dy), strict=True):
        assert have.dtype == x.dtype and have.shape == want.shape
        scale = max(np.abs(want).max(initial=0), 1)
        have = np.asarray(have, np.float64)
        np.testing.assert_allclose(have / scale, want / scale, atol=TOLERANCE[x.dtype.name])
    assert np.all(np.asarray(got[2])[np.asarray(beyond(w))] == 0)


def test_programs_may_run_in_any_order(monkeypatch):
    x, w, dy = problem(20, 10, 7, (4, 4))
    index = pl.program_id
    monkeypatch.setattr(pl, "program_id", lambda axis: pl.num_programs(axis) - 1 - index(axis))
    got = jax.jit(lambda *a: products(*a))(x, w, dy)  # the last program is the first to run
    for have, want in zip(got, expected(x, w, dy), strict=True):
        np.testing.assert_allclose(have, want, atol=1e-5)


@pytest.mark.parametrize("sizes", [(0, 4, 3), (4, 0, 3), (4, 3, 0), (4, 5, 3)])
def test_nothing_to_multiply(sizes):
    x, w, dy = problem(*sizes, (2, 2), 1.0 if 0 in sizes else 0.0)
    y, dx, dvalues = products(x, w, dy)
    assert (y.shape, dx.shape, dvalues.shape) == (dy.shape, x.shape, w.values.shape)
    assert not (y.any() or dx.any() or dvalues.any())


@pytest.mark.parametrize("batched", ["x", "both"])
def test_vmap(batched):
    x, w, dy = problem(3, 6, 8, (4, 4), 0.8)
    w = formats.BSR.from_dense(w.todense(), w.todense() != 0, (4, 4))
    scales = jnp.array([1.0, 2.0, -1.0])
    xs = x * scales[:, None, None]
    values = w.values * scales[:, None, None, None] if batched == "both" else w.values
    axes = (0, 0 if batched == "both" else None)

    def run(multiply, interpret):
        def one(x, values):
            return products(x, dataclasses.replace(w, values=values), dy, multiply, interpret)

        return jax.jit(jax.vmap(one, axes))(xs, values)

    got, want = run(block_matmul, True), run(lambda x, w: x @ w.todense(), False)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_second_derivatives():
    x, w, dy = problem(2, 4, 4, (2, 2), 1)

    def second(multiply):
        def weighted(x, values, dy):
            return (multiply(x, dataclasses.replace(w, values=values)) * dy).sum()

        def length(*a):
            return sum((g**2).sum() for g in jax.grad(weighted, (0, 1))(*a))

        return jax.jit(jax.grad(length, (0, 1, 2)))(x, w.values, dy)

    got = second(lambda x, w: block_matmul(x, w, interpret=True))
    for a, b in zip(got, second(lambda x, w: x @ w.todense()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def test_no_dense_array_is_made():
    x, w, dy = problem(8, 96, 160, (16, 16), 0.1)
    program = jax.make_jaxpr(lambda *a: products(*a, interpret=False))(x, w, dy)
    sizes = [math.prod(map(int, s.split(","))) for s in re.findall(r"\[(\d[\d,]*)\]", str(program))]
    assert max(sizes) == max(w.values.size, dy.size) < 96 * 160 / 4


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def test_programs_for_gpus_are_made_without_one(gpu):
    def multiply(x, w):
        return sparse_matmul(x, w, backend="pallas")

    def run(x, w, dy):
        return products(x, w, dy, multiply, interpret=False)

    for dtype in TOLERANCE:
        x, w, dy = problem(70, 140, 90, (130, 20), 0.6, dtype)
        lowered = jax.jit(run).trace(x, w, dy).lower(lowering_platforms=("cuda",))
        assert lowered.as_text().count("__gpu$xla.gpu.triton") == 3
        assert [a.dtype for a in lowered.out_info] == 3 * [jnp.dtype(dtype)]
    with jax.enable_x64(True):
        batched = jax.jit(jax.vmap(run, (0, None, 0))).trace(x[None], w, dy[None])
        lowered = batched.lower(lowering_platforms=("cuda",))
        assert lowered.as_text().count("__gpu$xla.gpu.triton") == 3


def test_tiles_are_those_that_triton_multiplies():
    assert [_tile(size) for size in (1, 16, 17, 65, 1000)] == [16, 16, 32, 64, 64]


def test_the_precision_is_that_of_other_products():
    arguments = problem(2, 4, 4, (2, 2), 1)

    def program():
        return str(jax.make_jaxpr(lambda *a: products(*a, interpret=False))(*arguments))

    assert "HIGHEST" not in program()
    with jax.default_matmul_precision("highest"):
        assert program().count("HIGHEST") >= 3


def test_it_is_for_gpus_and_blocks():
    x, w, _ = problem(2, 4, 4, (2, 2), 1)
    assert "needs a GPU" in kernels.why_not("pallas", jnp.float32)
    with pytest.raises(ValueError, match="'pallas' does not work here: it needs a GPU"):
        sparse_matmul(x, w, backend="pallas")


def test_what_it_does_not_know(gpu, monkeypatch):
    assert kernels.why_not("pallas", jnp.bfloat16, formats.BSR) is None
    assert "not with float64" in kernels.why_not("pallas", jnp.float64)
    x, w, _ = problem(2, 4, 4, (2, 2), 1)
    csr = formats.CSR.from_dense(w.todense(), True)
    with pytest.raises(ValueError, match="multiplies with the format BSR, not with CSR"):
        sparse_matmul(x, csr, backend="pallas")
    # It has not been measured yet, so nobody gets it unasked.
    assert kernels.default_backend(jnp.float32) == "dense"
    monkeypatch.delitem(sys.modules, "sparsejax.kernels.pallas")
    monkeypatch.delattr(kernels, "pallas")
    monkeypatch.setitem(sys.modules, "jax.experimental.pallas.triton", None)
    monkeypatch.delattr("jax.experimental.pallas.triton", raising=False)
    assert "this version of jax does not have" in kernels.why_not("pallas", jnp.float32)


def test_only_blocks_are_measured_with_it(gpu, monkeypatch):
    asked = []

    def products(backend):
        return lambda *_: asked.append(backend) or 0.0

    monkeypatch.setattr(tune, "_products", products)
    for make, there in (formats.CSR.from_dense, False), (formats.BSR.from_dense, True):
        asked.clear()
        timing = tune._measure("", (8, 8), 0.5, 2, None, make, jnp.float32, 1)
        assert ("pallas" in asked) == ("pallas" in timing.seconds) == there
        assert ("pallas" in timing.reasons) != there
