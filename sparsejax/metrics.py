"""What a sparse network costs, and how its masks move: densities, churn, FLOPs and bytes.

Everything here is computed on the host from shapes and masks, in exact integers where the quantity
is one. Leaves are named by their path, its keys joined by "/".
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxprs_in_params
from jax.extend.core import Literal as JaxprLiteral

from sparsejax.masks import counts, find_in_state, path_name, put_together, spread
from sparsejax.typing import Masks, Params


def densities(params: Params, masks: Masks) -> dict[str, float]:
    """Gives the kept share of every masked leaf.

    Args:
      params: The parameters, arrays or `jax.ShapeDtypeStruct`s of any shapes.
      masks: A tree of the same structure; a scalar `True` marks a leaf that stays dense.

    Returns:
      Path -> kept entries / all entries. Leaves that stay dense are left out.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {'kernel': jnp.ones((2, 4)), 'bias': jnp.ones(4)}
      >>> masks = {'kernel': jnp.arange(8).reshape(2, 4) < 3, 'bias': jnp.array(True)}
      >>> densities(params, masks)
      {'kernel': 0.375}
    """
    return {path: n.kept / n.total if n.total else 1.0 for path, n in counts(params, masks).items()}


def churn(params: Params, before: Masks, after: Masks) -> float:
    """Gives the share of the connections that changed from one set of masks to another.

    Args:
      params: The parameters, arrays or `jax.ShapeDtypeStruct`s of any shapes.
      before: A tree of masks; a scalar `True` marks a leaf that stays dense, and does not count.
      after: Another one.

    Returns:
      Entries that exactly one of the two keeps / entries that at least one of them keeps, over all
      masked leaves together: 0 where they are the same, 1 where they have nothing in common. If a
      share f of the connections moved, it is 2 f / (1 + f); if a share f was removed, it is f.

    Example:
      >>> import jax.numpy as jnp
      >>> before = {'kernel': jnp.array([[True, True, False, False]])}
      >>> after = {'kernel': jnp.array([[True, False, True, False]])}
      >>> churn({'kernel': jnp.ones((1, 4))}, before, after)
      0.6666666666666666
    """
    before, after = spread(before, params), spread(after, params)
    changed = counts(params, jax.tree.map(jnp.logical_xor, before, after)).values()
    either = counts(params, jax.tree.map(jnp.logical_or, before, after)).values()
    total = sum(n.kept for n in either)
    return sum(n.kept for n in changed) / total if total else 0.0


def explored(params: Params, opt_state: Any) -> float:
    """Gives R_s, the share of the connections that have been on the masks at any time so far.

    Args:
      params: The parameters, arrays or `jax.ShapeDtypeStruct`s of any shapes.
      opt_state: The state of a transformation with `record_explored`, as in `rigl_itop`.

    Returns:
      Connections that were ever there / entries of all masked leaves together. Liu et al. 2021,
      arXiv 2102.02887.

    Raises:
      ValueError: If no rule in the state records it.

    Example:
      >>> import jax.numpy as jnp, sparsejax
      >>> rule = sparsejax.record_explored(sparsejax.static(0.75))
      >>> params = {'kernel': jnp.ones((4, 4)), 'bias': jnp.ones(4)}
      >>> explored(params, rule.init(params))
      0.25
    """
    recorded = find_in_state(opt_state, "explored")
    if not recorded:
        raise ValueError("no rule in this state records what it explores; see record_explored")
    ever = counts(params, spread(put_together(recorded), params)).values()
    total = sum(n.total for n in ever)
    return sum(n.kept for n in ever) / total if total else 1.0


class Flops(NamedTuple):
    """The FLOPs of the products in a function; a multiply-add is two FLOPs.

    Attributes:
      dense: Path of a parameter leaf -> FLOPs of the products it takes part in, were it dense.
        Leaves that take part in no product (biases, scales) are left out.
      sparse: The same products with the leaf's zeros skipped: the dense FLOPs x its density.
      other: FLOPs of the products of no parameter, such as attention's scores.
    """

    dense: dict[str, int]
    sparse: dict[str, float]
    other: int

    @property
    def total_dense(self) -> int:
        """FLOPs of all products, were every parameter dense."""
        return sum(self.dense.values()) + self.other

    @property
    def total_sparse(self) -> float:
        """FLOPs of all products at the densities of the leaves."""
        return sum(self.sparse.values()) + self.other

    def at(self, densities: Mapping[str, float]) -> "Flops":
        """Gives the FLOPs of the same products at other densities.

        Args:
          densities: Path -> density in [0, 1]. A leaf that is not named is dense.

        Returns:
          The same dense FLOPs beside the new sparse ones.

        Example:
          >>> Flops({'a': 60, 'b': 40}, {'a': 60.0, 'b': 40.0}, 8).at({'a': 0.5}).total_sparse
          78.0
        """
        return self._replace(sparse={k: n * densities.get(k, 1.0) for k, n in self.dense.items()})


def flops(fn: Callable[..., Any], params: Params, *args: Any, masks: Masks | None = None) -> Flops:
    """Counts the FLOPs of `fn(params, *args)` at the densities of `masks`.

    The function is traced, not run and not compiled. Counted are the products `lax.dot_general`
    and `lax.conv_general_dilated`, wherever they stand (under `jit`, `vmap`, `remat`, custom
    derivatives, a `scan` times its length); elementwise work, reductions and look-ups are not.
    A convolution's products with padding count, as they do in the papers: every weight is then
    used equally often, which makes dense FLOPs x density exact. The zeros that a transposed
    convolution puts between its inputs do not count.

    Each product is charged to the parameter leaf that one of its operands was made from, by any
    operations that bring in no activations: casts, reshapes, slices, scaling, masking, weight
    normalization. Of several leaves the largest is charged. A slice of a leaf is charged at the
    density of the whole. What depends on `args` is an activation, but for booleans, random keys
    and scalars, so masks and temperatures may be among the arguments.

    Of the branches of a `lax.cond` the one with the most dense FLOPs counts.

    Args:
      fn: Any JAX function of the parameters, and of arrays of any shapes.
      params: The parameters, arrays or `jax.ShapeDtypeStruct`s.
      *args: The other arguments, likewise; their shapes give the batch that is counted.
      masks: Masks of `params`. Without them every leaf is dense.

    Returns:
      The FLOPs by leaf, dense and sparse.

    Raises:
      NotImplementedError: If products stand where they cannot be counted: in a `while_loop`,
        whose number of trips is not in the program, in a `shard_map` or a hand-written kernel.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> params = {'kernel': jnp.ones((784, 300)), 'bias': jnp.ones(300)}
      >>> masks = {'kernel': jnp.arange(784)[:, None] < 196, 'bias': jnp.array(True)}
      >>> batch = jax.ShapeDtypeStruct((1, 784), jnp.float32)
      >>> flops(lambda p, x: x @ p['kernel'] + p['bias'], params, batch, masks=masks)
      Flops(dense={'kernel': 470400}, sparse={'kernel': 117600.0}, other=0)
    """
    closed = jax.make_jaxpr(fn)(params, *args)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    sizes = tuple(math.prod(jnp.shape(leaf)) for _, leaf in leaves)
    inputs = closed.jaxpr.invars[len(leaves) :]
    origins = [*range(len(leaves)), *(_of_argument(var.aval) for var in inputs)]
    cost, _ = _walk(closed.jaxpr, origins, sizes)
    other = cost.pop(_DATA, 0)
    dense = {path_name(leaves[leaf][0]): cost[leaf] for leaf in sorted(cost)}
    return Flops(dense, {}, other).at({} if masks is None else densities(params, masks))


Method = Literal["dense", "static", "set", "snfs", "rigl", "pruning"]


def training_flops(
    method: Method,
    dense: float,
    sparse: float | Sequence[float] | np.ndarray | None = None,
    period: int | None = None,
) -> float:
    """Gives the mean FLOPs of a training step by the accounting of the RigL paper.

    A backward pass costs two forward passes, one for the gradient of the activations, one for
    that of the weights. A method that looks at the dense gradient pays the latter densely; the
    update of the masks itself is free. With f_D and f_S the forward FLOPs, dense and sparse:

    =====================  ===============================================
    dense                  3 f_D
    static, set            3 f_S
    snfs                   2 f_S + f_D
    rigl                   (3 f_S period + 2 f_S + f_D) / (period + 1)
    pruning                the mean of 3 f_S over the steps
    =====================  ===============================================

    Args:
      method: One of the above.
      dense: f_D, the forward FLOPs of the dense network, of an example or of a batch.
      sparse: f_S, in the same unit. An array gives it at each step, where it follows a
        schedule; its mean is taken.
      period: RigL's steps between two updates of the masks, Delta T.

    Returns:
      FLOPs of a step, the mean over the training, in the same unit.

    Raises:
      ValueError: If the method is unknown, or `sparse` or `period` is missing.

    Source: Evci et al., "Rigging the Lottery: Making All Tickets Winners", arXiv 1911.11134,
    appendix on the calculation of FLOPs.

    Example:
      >>> training_flops('rigl', dense=1000, sparse=100, period=99)
      309.0

      Pruning, here to 90 % within the first three of four steps:

      >>> forward = Flops({'kernel': 1000}, {'kernel': 1000.0}, 0)
      >>> sparsities = [0.0, 0.5, 0.9, 0.9]
      >>> training_flops(
      ...     'pruning', forward.total_dense,
      ...     [forward.at({'kernel': 1 - s}).total_sparse for s in sparsities])
      1275.0
    """
    if method == "dense":
        return 3.0 * dense
    if method not in ("static", "set", "snfs", "rigl", "pruning"):
        raise ValueError(
            f"method is {method!r}; known are dense, static, set, snfs, rigl and pruning"
        )
    if sparse is None:
        raise ValueError(f"{method} needs sparse, the forward FLOPs of the sparse network")
    mean = float(np.mean(sparse))
    if method == "snfs":
        return 2 * mean + dense
    if method == "rigl":
        if period is None or period < 1:
            raise ValueError(f"rigl needs period, at least 1 step between updates; got {period}")
        return (3 * mean * period + 2 * mean + dense) / (period + 1)
    return 3 * mean


class Bytes(NamedTuple):
    """The size of parameters, in bytes.

    Attributes:
      dense: All entries of all leaves.
      sparse: The same parameters as a bitmask and the kept values for each masked leaf.
    """

    dense: int
    sparse: int


def nbytes(params: Params, masks: Masks) -> Bytes:
    """Gives the bytes of the parameters, dense and as bitmasks with the kept values.

    A masked leaf takes one bit for each entry of its mask (a channel mask one for each channel)
    and its kept values, each rounded up to whole bytes; where that is not smaller, and where a
    leaf is not masked, it is stored as it is. Types narrower than a byte are packed.

    Args:
      params: The parameters, arrays or `jax.ShapeDtypeStruct`s of any shapes and dtypes.
      masks: A tree of the same structure; a scalar `True` marks a leaf that stays dense.

    Returns:
      Both sizes, exact integers.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {'kernel': jnp.ones((3, 3)), 'bias': jnp.ones(3)}
      >>> masks = {'kernel': jnp.eye(3, dtype=bool), 'bias': jnp.array(True)}
      >>> nbytes(params, masks)
      Bytes(dense=48, sparse=26)
    """
    kept = counts(params, masks)
    dense = sparse = 0
    leaves = jax.tree_util.tree_leaves_with_path(params)
    by_leaf = jax.tree.leaves(spread(masks, params))
    for (path, leaf), mask in zip(leaves, by_leaf, strict=True):
        bits = _bits(leaf.dtype)
        whole = -(-leaf.size * bits // 8)
        dense += whole
        count = kept.get(path_name(path))
        packed = -(-mask.size // 8) - (-count.kept * bits // 8) if count else whole
        sparse += min(whole, packed)
    return Bytes(dense, sparse)


def _bits(dtype: Any) -> int:
    """Gives the bits of an entry: a four-bit number has four, though it is held in a byte."""
    if jnp.issubdtype(dtype, jnp.integer):
        return jnp.iinfo(dtype).bits
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.finfo(dtype).bits
    return 8 * dtype.itemsize


# The origin of a value in a traced program: the index of the parameter leaf that it was made from,
# or one of these two.
_FIXED = -1  # made from no activation: constants, masks, random numbers, scalars
_DATA = -2  # an activation

# Primitives that do once what the program in their parameters says.
CALLS = ("jit", "closed_call", "remat2", "custom_jvp_call", "custom_vjp_call", "custom_vmap_call")

_UNCOUNTED_PRODUCTS = ("ragged_dot_general", "scaled_matmul")


def _of_argument(aval: Any) -> int:
    """Gives the origin of an argument: booleans and random keys make masks, not activations."""
    dtype = aval.dtype
    is_fixed = dtype == jnp.bool_ or jnp.issubdtype(dtype, jax.dtypes.prng_key) or aval.size == 1
    return _FIXED if is_fixed else _DATA


def _join(origins: Sequence[int], sizes: Sequence[int]) -> int:
    """Gives the origin of a value made from several: an activation, or the largest leaf."""
    if _DATA in origins:
        return _DATA
    leaves = [origin for origin in origins if origin != _FIXED]
    # Of equals the last: in `x @ kernel` the kernel stands behind.
    return max(reversed(leaves), key=lambda leaf: sizes[leaf]) if leaves else _FIXED


def _walk(
    jaxpr: Jaxpr, origins: Sequence[int], sizes: Sequence[int]
) -> tuple[Counter[int], list[int]]:
    """Counts a program's FLOPs by leaf (and _DATA), given the origins of its inputs.

    Returns:
      The FLOPs and the origins of the outputs.
    """
    of = dict(zip(jaxpr.invars, origins, strict=True))
    total: Counter[int] = Counter()

    def read(atom: Any) -> int:
        return _FIXED if isinstance(atom, JaxprLiteral) else of.get(atom, _FIXED)

    for eqn in jaxpr.eqns:
        cost, outs = _equation(eqn, [read(atom) for atom in eqn.invars], sizes)
        total += cost
        for var, out in zip(eqn.outvars, outs, strict=True):
            is_scalar = out == _DATA and getattr(var.aval, "size", 0) == 1
            of[var] = _FIXED if is_scalar else out  # scaling by it leaves a weight a weight
    return total, [read(atom) for atom in jaxpr.outvars]


def _equation(
    eqn: JaxprEqn, origins: list[int], sizes: Sequence[int]
) -> tuple[Counter[int], list[int]]:
    """Does for one equation what `_walk` does for a program."""
    name, params = eqn.primitive.name, eqn.params
    if name in ("dot_general", "conv_general_dilated"):
        leaf = _join([origin for origin in origins if origin >= 0], sizes)
        multiply_adds = _dot(eqn) if name == "dot_general" else _convolution(eqn)
        return Counter({_DATA if leaf == _FIXED else leaf: 2 * multiply_adds}), [_DATA]
    inner = [_open(sub) for sub in jaxprs_in_params(params)]
    if name in CALLS:
        return _walk(inner[0], origins, sizes)
    if name == "scan":
        return _scan(eqn, origins, sizes)
    if name == "cond":
        branches = [_walk(branch, origins[1:], sizes) for branch in inner]
        outs = [_join(each, sizes) for each in zip(*(outs for _, outs in branches), strict=True)]
        return max((cost for cost, _ in branches), key=Counter.total), outs
    if name in _UNCOUNTED_PRODUCTS or any(
        _walk(sub, [_DATA] * len(sub.invars), sizes)[0] for sub in inner
    ):
        raise NotImplementedError(
            f"flops cannot count the products in a {name!r} of the traced function: how often "
            "they run does not stand in the program. Use lax.scan, or a fori_loop with "
            "Python integers as bounds, in place of a while loop, and count without sharding"
        )
    values = origins[1:] if name == "select_n" else origins  # by what is chosen, not by the choice
    return Counter(), [_join(values, sizes)] * len(eqn.outvars)


def _scan(
    eqn: JaxprEqn, origins: list[int], sizes: Sequence[int]
) -> tuple[Counter[int], list[int]]:
    """Counts the body of a scan, with the carry's origins taken to where they no longer change."""
    body, length = _open(eqn.params["jaxpr"]), eqn.params["length"]
    consts, carries = eqn.params["num_consts"], eqn.params["num_carry"]
    while True:
        cost, outs = _walk(body, origins, sizes)
        carry = origins[consts : consts + carries]
        joined = [_join(pair, sizes) for pair in zip(carry, outs[:carries], strict=True)]
        if joined == carry:
            return Counter({leaf: n * length for leaf, n in cost.items()}), outs
        origins = [*origins[:consts], *joined, *origins[consts + carries :]]


def _open(jaxpr: Jaxpr | ClosedJaxpr) -> Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def _shape(var: Any) -> tuple[int, ...]:
    return var.aval.shape


def _dot(eqn: JaxprEqn) -> int:
    """Counts the multiply-adds: each output entry sums over the contracted axes."""
    (contracted, _), _ = eqn.params["dimension_numbers"]
    out, lhs = _shape(eqn.outvars[0]), _shape(eqn.invars[0])
    return math.prod(out) * math.prod(lhs[axis] for axis in contracted)


def _convolution(eqn: JaxprEqn) -> int:
    """Counts the multiply-adds: output entries x kernel taps x the input channels of a group."""
    params, spec = eqn.params, eqn.params["dimension_numbers"]
    out, kernel = _shape(eqn.outvars[0]), _shape(eqn.invars[1])
    n = out[spec.out_spec[0]] * out[spec.out_spec[1]] * kernel[spec.rhs_spec[1]]
    for i, (out_axis, axis) in enumerate(zip(spec.out_spec[2:], spec.rhs_spec[2:], strict=True)):
        positions = np.arange(out[out_axis])[:, None] * params["window_strides"][i]
        taps = np.arange(kernel[axis])[None, :] * params["rhs_dilation"][i]
        # Where a tap meets an input (or padding), and not a zero set between two inputs.
        read = positions + taps - params["padding"][i][0]
        n *= int(np.count_nonzero(read % params["lhs_dilation"][i] == 0))
    return n
