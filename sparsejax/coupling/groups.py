"""Coupled groups: which slices of which parameters are removed together, found by tracing."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from sparsejax.coupling.axes import Array, Axis, Source, Trace, constant
from sparsejax.coupling.labels import Labels
from sparsejax.coupling.primitives import walk
from sparsejax.masks import path_name
from sparsejax.typing import Params

Role = Literal["producer", "consumer", "state"]


class Member(NamedTuple):
    """The slices of one array that belong to the units of a group.

    Attributes:
      path: The keys of the parameter's path joined by '/'.
      axis: The axis along which it is sliced.
      indices: For each unit the positions along the axis.
      role: "producer" makes the unit's activation (its weights, its bias, the scale and shift of
        its normalization); "consumer" are the next layers' weights, which sum it up; "state" is a
        slice of the state, which no mask touches.
    """

    path: str
    axis: int
    indices: tuple[tuple[int, ...], ...]
    role: Role


class Group(NamedTuple):
    """Units of one kind, such as the channels of a layer or the heads of an attention.

    Attributes:
      units: How many there are.
      members: Their slices.
      feeds: What the consumers of a unit get when all its producers are 0. 0: then the unit is
        gone, whatever its consumers' weights are. Another number, as sigmoid(0) = 0.5: taking the
        unit away takes from the next layers a constant that their biases must make up for. None:
        what is taken away hangs on the unit, or is not known.
    """

    units: int
    members: tuple[Member, ...]
    feeds: float | None

    @property
    def name(self) -> str:
        """The path of the first producer."""
        return next((m for m in self.members if m.role == "producer"), self.members[0]).path


class Fixed(NamedTuple):
    """Positions of a parameter that cannot be removed.

    Attributes:
      path: The keys of the parameter's path joined by '/'.
      axis: The axis.
      positions: How many positions along it.
      reason: Why, for the first of them.
    """

    path: str
    axis: int
    positions: int
    reason: str


class Coupling(NamedTuple):
    """What of a network can be removed, and what cannot.

    Attributes:
      groups: The groups of units.
      fixed: The rest, with the reasons.
    """

    groups: tuple[Group, ...]
    fixed: tuple[Fixed, ...]


def coupled_groups(
    apply: Callable[..., Any], params: Params, *inputs: Any, state: Any = None
) -> Coupling:
    """Finds the slices of parameters that live or die together, by tracing the forward function.

    When an output channel goes, so do its bias, the scale and shift of its normalization, and the
    inputs that it is to all layers that read it; where layers are added up, all of them lose the
    channel. This follows the axes of all arrays through the program, and no layer's name is asked
    for: an idea of Fang et al. 2023 (DepGraph), arXiv 2301.12900, here on jaxprs and by position,
    so that a channel owns its positions in a flattened array and in a concatenation, and an axis
    split into heads has units of two kinds.

    Inputs and outputs of the network are fixed, and so is what normalizes over it (the width of a
    residual stream with layer norm) and whatever meets an operation that the tracer does not know.
    Removable is what keeps the meaning of the rest: masks that zero a unit's slices give the
    network without it. (A program may compute with sizes, as 1 / sqrt(head size) does; a smaller
    network must keep such numbers.)

    Args:
      apply: `(params, *inputs) -> outputs`, or `(params, state, *inputs) -> outputs` where there is
        a state. Trace it as it is used in evaluation.
      params: The parameters, or their shapes.
      *inputs: Example inputs, or their shapes.
      state: Arrays that have a slice for each unit but are not trained, such as the running
        statistics of batch norm; None for none.

    Returns:
      The groups, in the order of their first producers, and what is fixed.

    >>> import jax.numpy as jnp
    >>> params = {"a": jnp.ones((3, 4)), "b": jnp.ones(4), "c": jnp.ones((4, 2))}
    >>> apply = lambda p, x: jax.nn.relu(x @ p["a"] + p["b"]) @ p["c"]
    >>> (group,) = coupled_groups(apply, params, jnp.ones((1, 3))).groups
    >>> group.units, group.feeds
    (4, 0.0)
    >>> [(m.path, m.axis, m.role) for m in group.members]
    [('a', 1, 'producer'), ('b', 0, 'producer'), ('c', 0, 'consumer')]
    """
    given = (params, *(() if state is None else (state,)), *inputs)
    program = jax.make_jaxpr(apply)(*given)
    trace = Trace(Labels(), set(), set(), [])
    leaves = [(path_name(p), x, False) for p, x in jax.tree_util.tree_leaves_with_path(params)]
    leaves += [(path_name(p), x, True) for p, x in jax.tree_util.tree_leaves_with_path(state)]
    arrays = [
        Array(
            tuple(
                Axis(
                    trace.labels.new(n),
                    np.full(n, math.nan if is_state else 0.0),
                    frozenset([(leaf, axis)]),
                )
                for axis, n in enumerate(x.shape)
            )
        )
        for leaf, (_, x, is_state) in enumerate(leaves)
    ]
    known = list(arrays)
    for var in program.jaxpr.invars[len(arrays) :]:
        fixed = (trace.labels.fixed(n, "an input of the network") for n in var.aval.shape)
        axes = tuple(Axis(x, np.full(len(x), math.nan)) for x in fixed)
        known.append(Array(axes, active=True))
    consts = [constant(trace, x) for x in program.consts]
    for output in walk(trace, program.jaxpr, consts, known):
        for axis in output.axes:
            trace.labels.fix(axis.labels, "an output of the network")
    trace.labels.settle()
    return _describe(trace, leaves, arrays)


Leaves = list[tuple[str, Any, bool]]
Places = dict[Source, list[int]]


def _describe(trace: Trace, leaves: Leaves, arrays: list[Array]) -> Coupling:
    roles = {
        (leaf, d): _role(trace, is_state, (leaf, d))
        for leaf, (_, _, is_state) in enumerate(leaves)
        for d in range(len(arrays[leaf].axes))
    }
    fed = _fix_what_is_no_unit(trace, arrays, roles)
    kinds: dict[Any, list[Places]] = {}
    for unit, places in _units(trace, arrays).items():
        values = {None if math.isnan(x) else x for x in fed[unit]}
        feeds = values.pop() if len(values) == 1 else None
        kind = (feeds, tuple((source, len(at)) for source, at in sorted(places.items())))
        kinds.setdefault(kind, []).append(places)
    groups = []
    for (feeds, shape), units in kinds.items():
        sources = sorted((source for source, _ in shape), key=lambda x: (roles[x] != "producer", x))
        units.sort(key=lambda places: [places[source] for source in sources])
        members = tuple(
            Member(
                leaves[leaf][0],
                axis,
                tuple(tuple(places[leaf, axis]) for places in units),
                roles[leaf, axis],
            )
            for leaf, axis in sources
        )
        groups.append(Group(len(units), members, feeds))
    order = {path: i for i, (path, _, is_state) in enumerate(leaves) if not is_state}
    groups.sort(key=lambda group: (order[group.name], group.members))
    fixed = []
    for (path, _, is_state), array in zip(leaves, arrays, strict=True):
        for d, axis in enumerate(array.axes):
            reasons = [r for r in map(trace.labels.reason, axis.labels.tolist()) if r]
            if reasons and not is_state:
                fixed.append(Fixed(path, d, len(reasons), reasons[0]))
    return Coupling(tuple(groups), tuple(fixed))


def _units(trace: Trace, arrays: list[Array]) -> dict[int, Places]:
    """For each free label the positions that go with it."""
    units: dict[int, Places] = {}
    for leaf, array in enumerate(arrays):
        for d, axis in enumerate(array.axes):
            for position, label in enumerate(axis.labels.tolist()):
                for unit in trace.labels.free(label):
                    units.setdefault(unit, {}).setdefault((leaf, d), []).append(position)
    return units


def _fix_what_is_no_unit(
    trace: Trace,
    arrays: list[Array],
    roles: dict[Source, Role],
) -> dict[int, set[float]]:
    """Fixes what is made or read by no weights, and whole axes; returns what the others feed."""
    fed: dict[int, set[float]] = {}
    for label, value in trace.consumed:
        for unit in trace.labels.free(label):
            fed.setdefault(unit, set()).add(value)
    while True:
        units = _units(trace, arrays)
        no_units: dict[int, str] = {}
        for unit, places in units.items():
            if unit not in fed:
                no_units[unit] = "no weights read it"
            elif not any(roles[source] == "producer" for source in places):
                no_units[unit] = "no weights make it"
            elif any(len(at) == len(arrays[i].axes[d].labels) for (i, d), at in places.items()):
                no_units[unit] = "it is the whole axis"
        if not no_units:
            return fed
        for unit, reason in no_units.items():
            trace.labels.fix([unit], reason)


def _role(trace: Trace, is_state: bool, source: Source) -> Role:
    if is_state:
        return "state"
    is_consumer = source in trace.consumers and source not in trace.producers
    return "consumer" if is_consumer else "producer"
