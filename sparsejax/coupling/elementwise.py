"""Operations on each entry: they equate the axes of what they put together."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from sparsejax.coupling.axes import BROADCAST, Array, Axis, Source, Trace, not_understood

# fmt: off
ELEMENTWISE = frozenset({
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
    "bitcast_convert_type", "cbrt", "ceil", "clamp", "conj", "convert_element_type", "copy",
    "cos", "cosh", "digamma", "div", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1",
    "floor", "ge", "gt", "imag", "integer_pow", "is_finite", "le", "lgamma", "log", "log1p",
    "logistic", "lt", "max", "min", "mul", "name", "ne", "neg", "nextafter", "not", "or", "pow",
    "real", "reduce_precision", "rem", "round", "rsqrt", "select_n", "sharding_constraint",
    "shift_left", "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh",
    "sqrt", "square", "stop_gradient", "sub", "tan", "tanh", "xor",
})
# What passes on the number that all entries are.
SAME = frozenset({
    "broadcast_in_dim", "copy", "name", "reshape", "sharding_constraint", "stop_gradient",
})
# fmt: on


def elementwise(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    """The axes of the result of an operation on each entry of arrays of one shape, or scalars."""
    axes, shape = [], eqn.outvars[0].aval.shape
    if any(array.axes and len(array.axes) != len(shape) for array in arrays):
        return not_understood(trace, eqn, arrays)  # one number read as several, or the reverse
    for d, n in enumerate(shape):
        spread = [_spread(trace, array, d, n) for array in arrays]
        mine = [axis for axis in spread if axis.labels.size or not n]
        for other in mine[1:]:
            trace.labels.equate(mine[0].labels, other.labels)
        dead = [axis.dead for axis in spread]
        columns = [tuple(map(float, column)) for column in zip(*dead, strict=True)]
        # NaN does not equal itself, and a set would hold it many times.
        keys = [tuple(None if math.isnan(x) else x for x in column) for column in columns]
        values = {key: at_value(eqn, column) for key, column in zip(keys, columns, strict=True)}
        sources = frozenset[Source]().union(*(axis.sources for axis in mine))
        axes.append(Axis(mine[0].labels, np.array([values[key] for key in keys]), sources))
    return [axes]


def _spread(trace: Trace, array: Array, d: int, n: int) -> Axis:
    """An operand's axis in a result with n entries there; without labels if it has but one."""
    if array.axes and len(array.axes[d].labels) == n:
        return array.axes[d]
    if array.axes:
        trace.labels.fix(array.axes[d].labels, BROADCAST)
    return Axis(np.zeros(0, int), np.full(n, array.value))


def at_value(eqn: Any, values: Sequence[float]) -> float:
    """What an operation makes of numbers, some of which may be unknown (NaN)."""
    name = eqn.primitive.name
    if name in SAME:
        return values[0]
    if name == "mul" and 0 in values:
        return 0.0
    if name == "div" and values[0] == 0 and values[1] != 0:
        return 0.0
    if name == "select_n":
        which, *cases = values
        cases = cases if math.isnan(which) else [cases[int(which)]]
        return cases[0] if len(set(cases)) == 1 else math.nan
    if any(map(math.isnan, values)):
        return math.nan
    dtypes = (var.aval.dtype for var in eqn.invars)
    arguments = tuple(zip(values, dtypes, strict=True))
    try:
        return _compute(eqn.primitive, tuple(eqn.params.items()), arguments)
    except (OverflowError, TypeError, ValueError):  # not numbers, or not as parameters stand
        return math.nan


@functools.lru_cache(maxsize=4096)
def _compute(primitive: Any, params: Any, arguments: tuple[tuple[float, Any], ...]) -> float:
    with jax.ensure_compile_time_eval():
        result = primitive.bind(*(jax.numpy.asarray(x, t) for x, t in arguments), **dict(params))
        return float(result)
