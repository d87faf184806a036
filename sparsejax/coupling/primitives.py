"""What each primitive operation of a program does to the labels of its arrays' axes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sparsejax.coupling.axes import (
    BROADCAST,
    ONE,
    Array,
    Axis,
    Source,
    Trace,
    agreed,
    constant,
    fixed,
    merge,
    new,
    not_understood,
    split,
    zeros,
)
from sparsejax.coupling.elementwise import ELEMENTWISE, SAME, at_value, elementwise


def walk(trace: Trace, jaxpr: Any, consts: Sequence[Array], inputs: Sequence[Array]) -> list[Array]:
    """Carries labels through a program.

    Args:
      trace: Collects the equations and roles.
      jaxpr: The program, an open jaxpr.
      consts: Its constants.
      inputs: Its inputs.

    Returns:
      Its outputs.
    """
    known: dict[Any, Array] = dict(zip(jaxpr.constvars, consts, strict=True))
    known |= zip(jaxpr.invars, inputs, strict=True)

    def read(var: Any) -> Array:
        return constant(trace, var.val) if hasattr(var, "val") else known[var]

    for eqn in jaxpr.eqns:
        arrays = [read(var) for var in eqn.invars]
        inner = _inner_program(eqn)
        if inner is not None:
            outputs = walk(trace, *inner, arrays)
        else:
            axes = _RULES.get(eqn.primitive.name, not_understood)(trace, eqn, arrays)
            active = any(array.active for array in arrays)
            value = math.nan
            if eqn.primitive.name in ELEMENTWISE | SAME:
                value = at_value(eqn, [array.value for array in arrays])
            outputs = [Array(_settled(trace, one, active), active, value) for one in axes]
        known.update(zip(eqn.outvars, outputs, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _inner_program(eqn: Any) -> tuple[Any, list[Array]] | None:
    """The program that an operation calls with its own arguments, and its constants."""
    if eqn.primitive.name in _CALLS:
        for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
            program = eqn.params.get(name)
            inner = getattr(program, "jaxpr", program)
            if inner is not None and not getattr(program, "consts", ()) and not inner.constvars:
                return inner, []
    return None


def _settled(trace: Trace, axes: Sequence[Axis], active: bool) -> tuple[Axis, ...]:
    """The axes of a result; where an input has come in, what survives of parameters produces."""
    if not active:
        return tuple(axes)
    for axis in axes:
        trace.producers.update(axis.sources)
    return tuple(axis._replace(sources=frozenset()) for axis in axes)


def _broadcast(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    array = arrays[0]
    axes = [new(trace, n, array.value) for n in eqn.params["shape"]]
    for axis, d in zip(array.axes, eqn.params["broadcast_dimensions"], strict=True):
        if len(axis.labels) == len(axes[d].labels):
            axes[d] = axis
        else:
            trace.labels.fix(axis.labels, BROADCAST)
    return [axes]


def _transpose(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    return [[arrays[0].axes[d] for d in eqn.params["permutation"]]]


def _squeeze(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    gone = eqn.params["dimensions"]
    for d in gone:
        trace.labels.fix(arrays[0].axes[d].labels, "one entry of it is picked")
    return [[axis for d, axis in enumerate(arrays[0].axes) if d not in gone]]


def _take(axis: Axis, positions: Any) -> Axis:
    return axis._replace(labels=axis.labels[positions], dead=axis.dead[positions])


def _rev(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    flipped = eqn.params["dimensions"]
    order = (slice(None, None, -1 if d in flipped else 1) for d in range(len(arrays[0].axes)))
    return [[_take(axis, s) for axis, s in zip(arrays[0].axes, order, strict=True)]]


def _slice(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    begin, end = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(begin)
    slices = map(slice, begin, end, strides)
    return [[_take(axis, s) for axis, s in zip(arrays[0].axes, slices, strict=True)]]


def _split(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    ends = np.cumsum(eqn.params["sizes"])
    pieces = zip(ends - np.array(eqn.params["sizes"]), ends, strict=True)
    return [
        [
            _take(axis, slice(*piece)) if d == eqn.params["axis"] else axis
            for d, axis in enumerate(arrays[0].axes)
        ]
        for piece in pieces
    ]


def _concatenate(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    joined = []
    for d, mine in enumerate(zip(*(array.axes for array in arrays), strict=True)):
        sources = frozenset[Source]().union(*(axis.sources for axis in mine))
        dead = np.stack([axis.dead for axis in mine]) if d != eqn.params["dimension"] else None
        if dead is None:
            labels = np.concatenate([axis.labels for axis in mine])
            joined.append(Axis(labels, np.concatenate([axis.dead for axis in mine]), sources))
            continue
        for other in mine[1:]:
            trace.labels.equate(mine[0].labels, other.labels)
        joined.append(Axis(mine[0].labels, agreed(dead), sources))
    return [joined]


def _pad(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    array, padding = arrays
    axes = []
    for axis, (low, high, inside) in zip(array.axes, eqn.params["padding_config"], strict=True):
        n = len(axis.labels)
        if low == high == inside == 0:
            # Other axes may be padded, so that the dead positions hold both.
            dead = np.where(axis.dead == padding.value, axis.dead, math.nan)
            padded = any(any(config) for config in eqn.params["padding_config"])
            axes.append(axis._replace(dead=dead) if padded else axis)
            continue
        size = low + high + n + max(n - 1, 0) * inside
        places = low + np.arange(n) * (inside + 1)
        there = (places >= 0) & (places < size)
        wide = new(trace, size, padding.value)
        wide.labels[places[there]] = axis.labels[there]
        wide.dead[places[there]] = np.where(axis.dead == padding.value, axis.dead, math.nan)[there]
        axes.append(wide._replace(sources=axis.sources))
    return [axes]


def _iota(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    numbered, shape = eqn.params["dimension"], eqn.params["shape"]
    reason = "its positions are numbered"
    return [[fixed(trace, n, reason) if d == numbered else new(trace, n)
             for d, n in enumerate(shape)]]  # fmt: skip


def _random(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    return [[new(trace, n) for n in var.aval.shape] for var in eqn.outvars]


def _reduce(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    name = eqn.primitive.name
    reason = f"it is reduced as a whole ({name}), as a mean, a softmax or a layer norm does"
    kept = []
    for d, axis in enumerate(arrays[0].axes):
        if d in eqn.params["axes"]:
            trace.labels.fix(axis.labels, reason)
        else:
            same = name in ("reduce_max", "reduce_min", "reduce_and", "reduce_or")
            kept.append(axis if same else axis._replace(dead=zeros(axis.dead)))
    return [kept]


def _window(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    name, params = eqn.primitive.name, eqn.params
    ones = (1,) * len(arrays[0].axes)
    strides = params.get("window_strides") or ones
    dilations = zip(
        params.get("base_dilation") or ones, params.get("window_dilation") or ones, strict=True
    )
    axes = []
    for axis, n, size, stride, padding, dilation in zip(
        arrays[0].axes,
        eqn.outvars[0].aval.shape,
        params["window_dimensions"],
        strides,
        params["padding"],
        dilations,
        strict=True,
    ):
        if size == stride == 1 and not any(padding) and dilation == (1, 1):
            same = name in ("reduce_window_max", "reduce_window_min")
            axes.append(axis if same else axis._replace(dead=zeros(axis.dead)))
        else:
            reason = f"a window runs along it ({name})"
            trace.labels.fix(axis.labels, reason)
            axes.append(fixed(trace, n, reason))
    return [axes]


def _along(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    """Cumulative sums and the like mix the positions along one axis."""
    fixed = eqn.params["axis"]
    for axis in arrays[0].axes[fixed : fixed + 1]:
        trace.labels.fix(axis.labels, f"{eqn.primitive.name} runs along it")
    return [[axis._replace(dead=zeros(axis.dead)) for axis in arrays[0].axes]]


def _dynamic_slice(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    axes = []
    for axis, n in zip(arrays[0].axes, eqn.params["slice_sizes"], strict=True):
        if len(axis.labels) == n:
            axes.append(axis)
        else:
            reason = "it is sliced at a place that the program computes"
            trace.labels.fix(axis.labels, reason)
            axes.append(fixed(trace, n, reason))
    return [axes]


def _gather(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    """Whole rows that are looked up keep the labels of their entries."""
    operand, indices = arrays
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    reason = "it is looked up by index"
    for axis in indices.axes:
        trace.labels.fix(axis.labels, reason)
    whole = []
    for d, axis in enumerate(operand.axes):
        if d in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims):
            trace.labels.fix(axis.labels, reason)
        elif len(axis.labels) == sizes[d]:
            whole.append(axis)
        else:
            trace.labels.fix(axis.labels, reason)
            whole.append(fixed(trace, sizes[d], reason))
    rows = iter(whole)
    return [[next(rows) if d in numbers.offset_dims else fixed(trace, n, reason)
             for d, n in enumerate(eqn.outvars[0].aval.shape)]]  # fmt: skip


def _reshape(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    old, shape = list(arrays[0].axes), list(eqn.params["new_sizes"])
    if eqn.params.get("dimensions") is not None or 0 in shape:
        return not_understood(trace, eqn, arrays)
    axes: list[Axis] = []
    while old or shape:
        # As few neighbours as have the same size in all on both sides.
        mine: list[Axis] = []
        sizes: list[int] = []
        have = wanted = 1
        while not sizes or have != wanted:
            if old and (not shape or have < wanted or not mine):
                mine.append(old.pop(0))
                have *= len(mine[-1].labels)
            elif shape:
                sizes.append(int(shape.pop(0)))
                wanted *= sizes[-1]
            else:
                break
        if mine:
            axes += split(trace, merge(trace, mine), sizes)
        else:
            axes += [fixed(trace, n, ONE) for n in sizes]
    return [axes]


def _contract(trace: Trace, left: Array, right: Array, axes: tuple[Axis, Axis]) -> None:
    """The products along one axis of each are summed up; those of dead units must vanish."""
    one, other = axes
    trace.labels.equate(one.labels, other.labels)
    vanishes = (one.dead == 0) | (other.dead == 0)
    trace.labels.fix(
        one.labels[~vanishes],
        "a dead unit would add to a sum that no weights of its own bring to 0",
    )
    if left.active == right.active:
        fed = np.zeros(len(one.labels))
    else:
        activation, weight = (one, other) if left.active else (other, one)
        trace.consumers.update(weight.sources)
        fed = activation.dead
    trace.consumed.extend(zip(one.labels.tolist(), fed.tolist(), strict=True))


def _together(trace: Trace, axes: tuple[Axis, Axis]) -> Axis:
    """A batch axis of a product: at each of its positions one is multiplied with the other."""
    one, other = axes
    trace.labels.equate(one.labels, other.labels)
    dead = np.where((one.dead == 0) | (other.dead == 0), 0, math.nan)
    return Axis(one.labels, dead, one.sources | other.sources)


def _dot(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    left, right = arrays
    (contract_left, contract_right), (batch_left, batch_right) = eqn.params["dimension_numbers"]
    axes = []
    for a, b in zip(batch_left, batch_right, strict=True):
        axes.append(_together(trace, (left.axes[a], right.axes[b])))
    for a, b in zip(contract_left, contract_right, strict=True):
        _contract(trace, left, right, (left.axes[a], right.axes[b]))
    for array, used in ((left, (*contract_left, *batch_left)),
                        (right, (*contract_right, *batch_right))):  # fmt: skip
        rest = (axis for d, axis in enumerate(array.axes) if d not in used)
        axes += [axis._replace(dead=zeros(axis.dead)) for axis in rest]
    return [axes]


def _conv(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    image, kernel = arrays
    layout, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    if eqn.params["batch_group_count"] != 1:
        return not_understood(trace, eqn, arrays)
    shape = eqn.outvars[0].aval.shape
    reason = "the window of a convolution runs along it"
    batch, features, *places = (image.axes[d] for d in layout.lhs_spec)
    outputs, inputs, *window = (kernel.axes[d] for d in layout.rhs_spec)
    for axis in (*places, *window):
        trace.labels.fix(axis.labels, reason)
    if groups > 1:
        # Each group of input channels meets its own group of output channels.
        lead, features = split(trace, features, [groups, len(features.labels) // groups])
        follow, outputs = split(trace, outputs, [groups, len(outputs.labels) // groups])
        outputs = merge(trace, [_together(trace, (lead, follow)), outputs])
    _contract(trace, image, kernel, (features, inputs))
    result = [fixed(trace, n, reason) for n in shape]
    result[layout.out_spec[0]] = batch._replace(dead=zeros(batch.dead))
    result[layout.out_spec[1]] = outputs._replace(dead=zeros(outputs.dead))
    return [result]


# fmt: off
_CALLS = frozenset({
    "checkpoint", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call",
    "custom_vjp_call_jaxpr", "jit", "pjit", "remat", "remat2",
})
# fmt: on
_RULES: dict[str, Callable[[Trace, Any, list[Array]], list[list[Axis]]]] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(("argmax", "argmin", "reduce_and", "reduce_max", "reduce_min"), _reduce),
    **dict.fromkeys(("reduce_or", "reduce_prod", "reduce_sum"), _reduce),
    **dict.fromkeys(("reduce_window_max", "reduce_window_min", "reduce_window_sum"), _window),
    **dict.fromkeys(("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum"), _along),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _conv,
    "dot_general": _dot,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "iota": _iota,
    "pad": _pad,
    "random_bits": _random,
    "reshape": _reshape,
    "rev": _rev,
    "slice": _slice,
    "split": _split,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
