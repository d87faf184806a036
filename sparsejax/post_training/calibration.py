"""What the weights of a network are multiplied with, on calibration data: found by tracing.

A function `apply(params, batch)` of any library is traced to a jaxpr. Each parameter is followed
through what only changes its shape or its type to the product that it enters; the other operand
holds the layer's inputs. Sums over them are formed where they arise, so that no activation outlives
its batch.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxprs_in_params

from sparsejax import masks, structures, topology
from sparsejax.metrics import CALLS
from sparsejax.typing import Params, Prunable

Apply = Callable[[Params, Any], Any]
"""`(params, batch) -> anything`: the forward pass."""


class Inputs(NamedTuple):
    """Sums over the inputs x of a layer, over examples and positions, in float32.

    Attributes:
      count: How many inputs there were, of the shape `[groups]`.
      sums: The sum of x, `[groups, inputs]`.
      squares: The sum of x², `[groups, inputs]`.
      gram: The sum of x xᵀ, `[groups, inputs, inputs]`: half the Hessian of the squared error of
        each of the layer's outputs. None where it was not asked for.
    """

    count: jax.Array  # type: ignore[assignment]  # shadows tuple.count
    sums: jax.Array
    squares: jax.Array
    gram: jax.Array | None

    @property
    def norms(self) -> jax.Array:
        """The L2 norm of each feature over all inputs."""
        return jnp.sqrt(self.squares)

    @property
    def mean(self) -> jax.Array:
        """The mean of each feature."""
        return self.sums / self.count[..., None]

    @property
    def variance(self) -> jax.Array:
        """The variance of each feature."""
        return jnp.maximum(self.squares / self.count[..., None] - self.mean**2, 0)


class Layer(NamedTuple):
    """A parameter that is multiplied with activations, seen as matrices.

    Attributes:
      path: The parameter's path.
      to_matrices: The parameter -> `[groups, inputs, outputs]`. There is one group but for
        products with a batch of matrices, and grouped convolutions.
      to_leaf: The inverse.
    """

    path: str
    to_matrices: Callable[[jax.Array], jax.Array]
    to_leaf: Callable[[jax.Array], jax.Array]


def calibrate(
    apply: Apply,
    params: Params,
    batches: Iterable[Any],
    *,
    prunable: Prunable = masks.default_prunable,
    gram: bool = True,
) -> dict[str, Inputs]:
    """Sums up what the inputs of each layer are, over batches of calibration data.

    Args:
      apply: `(params, batch) -> anything`, of any library. Given again, the same function is not
        compiled again. Parameters are followed through
        reshapes, transpositions and casts, inside jit, remat and functions with a derivative of
        their own, to `dot_general` or `conv_general_dilated`. A convolution's inputs are the
        patches under its kernel.
      params: The parameters, any pytree of arrays.
      batches: What `apply` takes, at least one; those of the same shapes share a compilation.
      prunable: `(path, leaf) -> bool`: the layers to look at.
      gram: Whether to form x xᵀ, which takes as much time and memory as a layer as wide as it is
        deep.

    Returns:
      The sums by the path of the parameter, in the order in which the layers run. A parameter that
      enters several products has the sums over the inputs of all of them.

    Raises:
      ValueError: before anything is compiled, if no leaf is prunable, or one cannot be captured,
        which is named with what it reaches (see `find_layers`); if there is no batch.

    >>> params = {"w": jnp.eye(2), "b": jnp.zeros(2)}
    >>> apply = lambda p, x: x @ p["w"] + p["b"]
    >>> inputs = calibrate(apply, params, [jnp.array([[3.0, 1.0]]), jnp.array([[4.0, 0.0]])])
    >>> inputs["w"].norms.tolist(), inputs["w"].gram.tolist()
    ([[5.0, 1.0]], [[[25.0, 3.0], [3.0, 1.0]]])
    """

    total = None
    for batch in batches:
        if total is None:
            paths = tuple(find_layers(apply, params, batch, prunable=prunable))
            of_batch = _program(apply, paths, gram)
            total = of_batch(params, batch)
        else:
            total = jax.tree.map(jnp.add, total, of_batch(params, batch))
    if total is None:
        raise ValueError("calibration needs at least one batch")
    return {path: total[path] for path in paths}  # jit has sorted them


# Several methods in turn look at the same layers of the same network.
@functools.lru_cache(maxsize=32)
def _program(
    apply: Apply, paths: tuple[str, ...], gram: bool
) -> Callable[[Params, Any], dict[str, Inputs]]:
    """The compiled sums over one batch; all that the layers do not need is left out of it."""

    @jax.jit
    def of_batch(params: Params, batch: Any) -> dict[str, Inputs]:
        sums: dict[str, Inputs] = {}
        for path, use in _uses(apply, params, batch).uses:
            if path in paths:
                of_use = _summed(use.inputs, gram)
                sums[path] = jax.tree.map(jnp.add, sums[path], of_use) if path in sums else of_use
        return sums

    return of_batch


def find_layers(
    apply: Apply, params: Params, batch: Any, *, prunable: Prunable = masks.default_prunable
) -> dict[str, Layer]:
    """Finds the product that each prunable parameter enters. Computes nothing.

    Args:
      apply: `(params, batch) -> anything`.
      params: The parameters, or their shapes and dtypes.
      batch: What `apply` takes, or its shapes and dtypes.
      prunable: `(path, leaf) -> bool`.

    Returns:
      The layers by path, in the order in which they run.

    Raises:
      ValueError: if no leaf is prunable; if one enters no product with activations, or is used in
        another way beside; if it enters two that see it as different matrices.

    >>> params = {"w": jnp.ones((2, 3, 5)), "b": jnp.zeros(5)}
    >>> apply = lambda p, x: jnp.einsum("bij,ijo->bo", x, p["w"]) + p["b"]
    >>> layers = find_layers(apply, params, jnp.ones((7, 2, 3)))
    >>> layers["w"].to_matrices(params["w"]).shape
    (1, 6, 5)
    """
    prunables = topology.prunable_paths(params, structures.unstructured(), prunable)
    found: list[tuple[str, _Use]] = []
    others: dict[str, str] = {}

    def trace(params: Params, batch: Any) -> None:
        uses, reached = _uses(apply, params, batch)
        found.extend((path, use._replace(inputs=None)) for path, use in uses)
        others.update(reached)

    jax.eval_shape(trace, params, batch)
    shapes = {
        masks.path_name(path): jax.ShapeDtypeStruct(leaf.shape, jnp.float32)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    layers: dict[str, Layer] = {}
    for path, use in found:
        if path not in prunables:
            continue
        if path in layers and not _same(layers[path].to_matrices, use.to_matrices, shapes[path]):
            raise ValueError(
                f"the inputs of {path!r} cannot be captured: it enters two products that see it as "
                "different matrices"
            )
        layers.setdefault(path, Layer(path, use.to_matrices, _inverse(use, shapes[path])))
    for path in prunables:
        if path in layers and path not in others:
            continue
        reached = (
            f"it reaches {others[path]!r}" if path in others else "the function does not use it"
        )
        raise ValueError(
            f"the inputs of {path!r} cannot be captured: {reached}, and parameters are followed "
            "only through reshapes, transpositions and casts to a product with activations "
            "(dot_general, conv_general_dilated), not into loops; leave it out by `prunable`"
        )
    return layers


class _Use(NamedTuple):
    """A product: how it sees the parameter, and what it multiplies with, [groups, n, inputs]."""

    to_matrices: Callable[[jax.Array], jax.Array]
    inputs: jax.Array | None


class _View(NamedTuple):
    """A parameter in another shape: its path, and how it came to it."""

    path: str
    of: Callable[[jax.Array], jax.Array]


class _Traced(NamedTuple):
    """A value of the program, and the parameter that it is a view of, if it is one."""

    value: Any
    view: _View | None = None


class _Record(NamedTuple):
    """What a walk finds: the products, and by parameter what else it enters."""

    uses: list[tuple[str, _Use]]
    others: dict[str, str]


# What keeps all entries. Casts are left out of a view: the entries are the parameter's own.
_RESHAPES = ("broadcast_in_dim", "copy", "copy_p", "reshape", "squeeze", "transpose")
_CASTS = ("convert_element_type", "sharding_constraint")


def _uses(apply: Apply, params: Params, batch: Any) -> _Record:
    """Runs a function, under a trace, and records the products of its parameters."""
    closed = jax.make_jaxpr(apply)(params, batch)
    leaves = [
        _Traced(leaf, _View(masks.path_name(path), lambda x: x))
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    ]
    record = _Record([], {})
    _walk(closed, [*leaves, *map(_Traced, jax.tree.leaves(batch))], record)
    return record


def _walk(program: Jaxpr | ClosedJaxpr, args: list[_Traced], record: _Record) -> list[_Traced]:
    """Evaluates a program and returns its outputs."""
    consts = program.consts if isinstance(program, ClosedJaxpr) else ()
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    known = dict(zip(jaxpr.invars, args, strict=True))
    known |= zip(jaxpr.constvars, map(_Traced, consts), strict=True)

    def read(atom: Any) -> _Traced:
        return _Traced(atom.val) if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        known |= zip(eqn.outvars, _equation(eqn, [*map(read, eqn.invars)], record), strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _equation(eqn: JaxprEqn, args: list[_Traced], record: _Record) -> list[_Traced]:
    """Does for one equation what `_walk` does for a program."""
    name = eqn.primitive.name
    if name in CALLS:
        return _walk(next(iter(jaxprs_in_params(eqn.params))), args, record)
    results = eqn.primitive.bind(*(arg.value for arg in args), **eqn.params)
    outs = [_Traced(x) for x in (results if eqn.primitive.multiple_results else [results])]
    views = [arg.view for arg in args if arg.view is not None]
    if not views:
        return outs
    (view, *more) = views
    if name == "dot_general" and not more:
        record.uses.append((view.path, _dot(eqn, args, view)))
    elif name == "conv_general_dilated" and args[1].view and not more and _is_plain(eqn):
        record.uses.append((view.path, _convolution(eqn, args, view)))
    elif name in _CASTS:
        return [outs[0]._replace(view=view)]
    elif name in _RESHAPES and not more and outs[0].value.size == args[0].value.size:
        of = _then(view.of, lambda x: eqn.primitive.bind(x, **eqn.params))
        return [outs[0]._replace(view=view._replace(of=of))]
    else:
        record.others.update({v.path: name for v in views})
    return outs


def _dot(eqn: JaxprEqn, args: list[_Traced], view: _View) -> _Use:
    """A product of which one operand is a parameter, the other one holds its inputs."""
    contracted, batched = eqn.params["dimension_numbers"]
    side = 0 if args[0].view else 1

    def arranged(x: jax.Array, side: int, inputs_last: bool) -> jax.Array:
        """As [groups, others, inputs], or [groups, inputs, others]."""
        groups, inputs = list(batched[side]), list(contracted[side])
        others = [axis for axis in range(x.ndim) if axis not in groups + inputs]
        order = groups + (others + inputs if inputs_last else inputs + others)
        n, wide = (int(np.prod([x.shape[a] for a in axes])) for axes in (groups, inputs))
        return x.transpose(order).reshape((n, -1, wide) if inputs_last else (n, wide, -1))

    to_matrices = _then(view.of, lambda w: arranged(w, side, inputs_last=False))
    return _Use(to_matrices, arranged(args[1 - side].value, 1 - side, inputs_last=True))


def _is_plain(eqn: JaxprEqn) -> bool:
    return eqn.params["batch_group_count"] == 1


def _convolution(eqn: JaxprEqn, args: list[_Traced], view: _View) -> _Use:
    """A convolution as a product with patches, their features ordered (channel, position)."""
    params, groups = eqn.params, eqn.params["feature_group_count"]
    spec = params["dimension_numbers"]
    kernel = args[1].value.shape

    def to_matrices(w: jax.Array) -> jax.Array:
        w = w.transpose(spec.rhs_spec)  # (out, in of a group, positions)
        return w.reshape(groups, w.shape[0] // groups, -1).swapaxes(1, 2)

    patches = jax.lax.conv_general_dilated_patches(
        args[0].value,
        [kernel[axis] for axis in spec.rhs_spec[2:]],
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        spec,
        jax.lax.Precision.HIGHEST,
    )
    features = jnp.moveaxis(patches, spec.out_spec[1], -1)
    inputs = features.reshape(-1, groups, features.shape[-1] // groups).swapaxes(0, 1)
    return _Use(_then(view.of, to_matrices), inputs)


def _summed(x: jax.Array | None, gram: bool) -> Inputs:
    assert x is not None
    x = x.astype(jnp.float32)
    count = jnp.full(x.shape[0], x.shape[1], jnp.float32)
    highest = jax.lax.Precision.HIGHEST
    products = jnp.einsum("gni,gnj->gij", x, x, precision=highest) if gram else None
    return Inputs(count, x.sum(1), (x * x).sum(1), products)


def _then(
    first: Callable[[jax.Array], jax.Array], second: Callable[[jax.Array], jax.Array]
) -> Callable[[jax.Array], jax.Array]:
    return lambda x: second(first(x))


def _inverse(use: _Use, leaf: jax.ShapeDtypeStruct) -> Callable[[jax.Array], jax.Array]:
    """The way back from matrices: a permutation's inverse is its transpose."""

    def to_leaf(matrices: jax.Array) -> jax.Array:
        back = jax.linear_transpose(use.to_matrices, leaf)
        (entries,) = back(matrices.astype(leaf.dtype))
        return entries

    return to_leaf


def _same(
    a: Callable[[jax.Array], jax.Array],
    b: Callable[[jax.Array], jax.Array],
    leaf: jax.ShapeDtypeStruct,
) -> bool:
    places = jnp.arange(leaf.size).reshape(leaf.shape)
    return np.array_equal(a(places), b(places))
