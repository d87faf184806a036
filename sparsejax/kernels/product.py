"""Products with sparse matrices, forward and backward, by whichever backend is best."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from sparsejax.formats import convert, matrix
from sparsejax.formats.bsr import BSR
from sparsejax.formats.matrix import Format
from sparsejax.kernels.indexed import cpu, index

BACKENDS = ("dense", "bcsr", "cpu", "pallas")


def sparse_matmul(x: jax.Array, w: Format | jax.Array, *, backend: str | None = None) -> jax.Array:
    """Multiplies with a sparse matrix: x @ w.

    The gradients are those of the inputs and of the stored values: no dense gradient is computed by
    the backends "cpu" and "pallas". To differentiate by the values, make the format from them in
    the function, as in the example. Types narrower than 32 bits are summed up in float32 and
    rounded once.

    Backends:
      - "dense" makes the dense matrix and has XLA multiply with it; it works anywhere, with any
        transformation and type.
      - "bcsr" is `jax.experimental.sparse`, which has products but no gradients of them; that of
        the values is read from a dense one.
      - "cpu" is machine code for the CPU (Numba's), of floating-point types. It can be
        differentiated once. `w` is indexed first if it is not `Indexed`, which takes the time of
        a product or so.
      - "pallas" is kernels for GPUs, for `formats.BSR` of float32, bfloat16 or float16. It can be
        differentiated in reverse mode, as often as wanted. It has not been timed yet, so that it
        is used only where it is named, or measured by `autotune`.

    Args:
      x: (..., inputs), of any floating type.
      w: Any format; its view is (inputs, outputs). An array is multiplied with as it is, so that a
        network can be written once for sparse and dense parameters.
      backend: One of the above. None takes "cpu" where it works, the faster of the others being
        "dense"; `autotune` measures which is the fastest for a layer.

    Returns:
      (..., outputs), of the type that `x @ w.todense()` has.

    Raises:
      ImportError: if "cpu" is asked for and Numba is not installed.
      ValueError: if the shapes do not fit, there is no such backend, or it does not work here.

    >>> import dataclasses
    >>> from sparsejax import formats
    >>> mask = jnp.array([[True, False], [True, True]])
    >>> w = index(formats.CSR.from_dense(jnp.array([[1.0, 2.0], [3.0, 4.0]]), mask))
    >>> sparse_matmul(jnp.array([[1.0, 10.0]]), w).tolist()
    [[31.0, 40.0]]
    >>> loss = lambda values: sparse_matmul(jnp.array([1.0, 10.0]), w.with_values(values)).sum()
    >>> jax.grad(loss)(w.values).tolist()
    [1.0, 10.0, 10.0]
    """
    if isinstance(w, jax.Array):
        return x @ w.reshape(matrix.view(w.shape))
    inputs, _ = matrix.view(w.shape)
    if x.ndim < 1 or x.shape[-1] != inputs:
        raise ValueError(f"x has the shape {x.shape}, but w has {inputs} inputs: {w.shape}")
    dtype = jnp.promote_types(x.dtype, w.values.dtype)
    backend = default_backend(dtype) if backend is None else backend
    if backend not in BACKENDS:
        raise ValueError(f"there is no backend {backend!r}; there are {', '.join(BACKENDS)}")
    reason = why_not(backend, dtype, type(w))
    if reason is not None:
        raise ValueError(f"the backend {backend!r} does not work here: {reason}")
    flat = x.reshape(math.prod(x.shape[:-1]), inputs)
    if backend == "cpu":
        y = _compiled(flat, w, dtype)
    elif backend == "bcsr":
        y = _bcsr_product(flat.astype(dtype), w.values.astype(dtype), jax.lax.stop_gradient(w))
    elif backend == "pallas":
        y = _pallas().block_matmul(flat.astype(dtype), w)
    else:
        y = flat @ w.todense().reshape(matrix.view(w.shape))
    return y.reshape(*x.shape[:-1], y.shape[-1])


def default_backend(dtype: Any) -> str:
    """Returns the backend that is used if none is named.

    >>> default_backend(jnp.int8)
    'dense'
    """
    return "dense" if why_not("cpu", jnp.dtype(dtype)) else "cpu"


def why_not(backend: str, dtype: Any, format: type | None = None) -> str | None:
    """Returns why a backend does not work here, or None if it does.

    Args:
      backend: One of `BACKENDS`.
      dtype: The type of what is multiplied.
      format: The class of the sparse matrix; None for one that the backend knows.

    >>> why_not("cpu", jnp.int8)
    'it computes with floating-point numbers, not with int8'
    >>> why_not("dense", jnp.int8) is None
    True
    """
    if backend == "bcsr" and not jnp.issubdtype(dtype, jnp.floating):
        return f"it is differentiable for floating-point numbers only, not for {dtype}"
    if backend == "pallas":
        return _why_not_pallas(jnp.dtype(dtype).name, format)
    if backend != "cpu":
        return None
    if not jnp.issubdtype(dtype, jnp.floating):
        return f"it computes with floating-point numbers, not with {jnp.dtype(dtype).name}"
    if jax.default_backend() != "cpu":
        return f"arrays are on the {jax.default_backend()}"
    try:
        return cpu().why_not()
    except ImportError as error:
        return str(error)


def _why_not_pallas(dtype: str, format: type | None) -> str | None:
    if dtype not in ("float32", "bfloat16", "float16"):
        return f"it computes with float32, bfloat16 and float16, not with {dtype}"
    if format is not None and format is not BSR:
        return f"it multiplies with the format BSR, not with {format.__name__}"
    if jax.default_backend() != "gpu":
        return f"it needs a GPU, but arrays are on the {jax.default_backend()}"
    try:
        _pallas()
    except ImportError as error:
        return f"this version of jax does not have what it needs: {error}"
    return None


def _pallas() -> Any:
    """Returns the module of the kernels for GPUs; Pallas is imported only here."""
    from sparsejax.kernels import pallas

    return pallas


def _compiled(x: jax.Array, w: Format, dtype: Any) -> jax.Array:
    """The product by machine code, in a type that it knows."""
    indexed = index(w)
    wide = jnp.float64 if dtype == jnp.float64 else jnp.float32
    values = indexed.values.ravel().astype(wide)
    by_row = indexed.by_row, indexed.row_pointers, indexed.columns
    by_column = indexed.by_column, indexed.column_pointers, indexed.rows
    y = _product(x.astype(wide), values, by_row, by_column, matrix.view(w.shape)[1])
    return y.astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _product(x: jax.Array, values: jax.Array, by_row: Any, by_column: Any, outputs: int) -> Any:
    del by_row
    return _forward(outputs)(x, values, *by_column)


def _product_forward(
    x: jax.Array, values: jax.Array, by_row: Any, by_column: Any, outputs: int
) -> Any:
    return _forward(outputs)(x, values, *by_column), (x, values, by_row)


def _product_backward(outputs: int, residuals: Any, dy: jax.Array) -> Any:
    del outputs
    x, values, by_row = residuals
    return *_backward(x, dy, values, *by_row), None, None


_product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def _bcsr_product(x: jax.Array, values: jax.Array, w: Format) -> jax.Array:
    return (_bcsr(w, values, transpose=True) @ x.T).T


def _bcsr_forward(x: jax.Array, values: jax.Array, w: Format) -> Any:
    return _bcsr_product(x, values, w), (x, values, w)


def _bcsr_backward(residuals: Any, dy: jax.Array) -> Any:
    x, values, w = residuals
    gradient = (x.T @ dy).at[w.coordinates()].get(mode="fill", fill_value=0)
    return (_bcsr(w, values) @ dy.T).T, gradient.reshape(values.shape), None


_bcsr_product.defvjp(_bcsr_forward, _bcsr_backward)


def _bcsr(w: Any, values: jax.Array, *, transpose: bool = False) -> Any:
    return convert.to_bcsr(dataclasses.replace(w, values=values), transpose=transpose)


def _once(function: Any) -> Any:
    """Says clearly that what is already part of a derivative has none."""
    guarded = jax.custom_jvp(function)

    @guarded.defjvp
    def jvp(primals: Any, tangents: Any) -> Any:
        raise NotImplementedError(
            "sparse_matmul can be differentiated once by the backend 'cpu'; second derivatives and "
            "forward mode have backend='dense'"
        )

    return guarded


@functools.cache
def _forward(outputs: int) -> Any:
    @custom_vmap
    def forward(x: jax.Array, *matrix: jax.Array) -> jax.Array:
        return cpu().forward(x, *matrix, outputs)

    @forward.def_vmap
    def batched(size: int, is_batched: Any, x: jax.Array, *matrix: jax.Array) -> Any:
        if is_batched[0] and not any(
            jax.tree.leaves(is_batched[1:])
        ):  # more examples of the same matrix
            y = forward(x.reshape(size * x.shape[1], x.shape[2]), *matrix)
            return y.reshape(size, x.shape[1], outputs), True
        return _one_by_one(forward, is_batched, (x, *matrix)), True

    return _once(forward)


@custom_vmap
def _backward_of(x: jax.Array, dy: jax.Array, *matrix: jax.Array) -> Any:
    return cpu().backward(x, dy, *matrix)


@_backward_of.def_vmap
def _(size: int, is_batched: Any, *args: Any) -> Any:
    return _one_by_one(_backward_of, is_batched, args), (True, True)


_backward = _once(_backward_of)


def _one_by_one(function: Any, is_batched: Any, args: Any) -> Any:
    """Maps over the batched arguments in a loop; the others are the same each time."""
    leaves, structure = jax.tree.flatten(args)
    flags = jax.tree.leaves(is_batched)

    def one(moving: Any) -> Any:
        moving = iter(moving)
        merged = [next(moving) if f else x for x, f in zip(leaves, flags, strict=True)]
        return function(*jax.tree.unflatten(structure, merged))

    return jax.lax.map(one, [x for x, f in zip(leaves, flags, strict=True) if f])
