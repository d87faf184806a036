"""Physical removal: a smaller network of one whose units are masked as a whole."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax.coupling.groups import Group
from sparsejax.masks import path_name, spread
from sparsejax.typing import Masks, Params


class Smaller(NamedTuple):
    """A network without its dead units.

    Attributes:
      params: The parameters.
      state: The state, such as running statistics; None if there was none.
      opt_state: The optimizer's state; None if there was none.
      shapes: The new shape of each parameter whose shape is another now, by path: what the
        definition of the network must be told.
    """

    params: Params
    state: Any
    opt_state: Any
    shapes: dict[str, tuple[int, ...]]


def living_units(groups: Sequence[Group], masks: Masks, params: Params) -> list[np.ndarray]:
    """Returns for each group which units live: one dies when all its producers' slices are masked.

    Args:
      groups: The groups of a `Coupling`.
      masks: The mask tree, made in any way.
      params: The parameters, or their shapes.

    Returns:
      For each group a bool array of the host, (units,).

    >>> from sparsejax.coupling.groups import Member
    >>> group = Group(2, (Member("w", 1, ((0,), (1, )), "producer"),), 0.0)
    >>> mask = jnp.array([[True, False], [False, False]])
    >>> living_units([group], {"w": mask}, {"w": jnp.ones((2, 2))})[0].tolist()
    [True, False]
    """
    shapes = _by_path(params)
    by_path = {path: np.asarray(mask) for path, mask in _by_path(spread(masks, params)).items()}
    result = []
    for group in groups:
        alive = np.zeros(group.units, bool)
        for member in group.members:
            if member.role == "producer":
                full = np.broadcast_to(by_path[member.path], shapes[member.path].shape)
                rows = np.moveaxis(full, member.axis, 0).reshape(full.shape[member.axis], -1)
                alive |= rows[np.array(member.indices)].any((1, 2))
        result.append(alive)
    return result


def remove_units(
    groups: Sequence[Group],
    alive: Sequence[np.ndarray],
    params: Params,
    *,
    state: Any = None,
    optimizer: optax.GradientTransformation | None = None,
    opt_state: Any = None,
    round_to: int = 1,
) -> Smaller:
    """Cuts dead units out of the parameters, the state and the optimizer's slots.

    The smaller network computes the same function if the dead units' parameters are 0 and the
    groups feed 0 when dead, as those do that `prune_units` takes.

    Args:
      groups: The groups of a `Coupling`.
      alive: For each group which units stay; `living_units` reads it from masks.
      params: The parameters, with zeros off the masks.
      state: The state that the groups were traced with; None for none.
      optimizer: The optimizer that trains them, within `sparsify` the inner one; None for none.
      opt_state: Its state. What has an entry for each weight is cut as the weights are; what
        depends on their shapes in another way (the row and column sums of factored second moments)
        begins anew.
      round_to: Widths are rounded up to a multiple of this, as far as there are units, for hardware
        that wants it: some dead units stay, as zeros.

    Returns:
      What is left, and the new shapes.

    Raises:
      ValueError: if a group with dead units feeds something else than 0, no unit of a group lives,
        or only one of the optimizer and its state is given.

    >>> import sparsejax
    >>> params = {"a": jnp.array([[1.0, 0.0, 2.0]]), "b": jnp.array([[1.0], [0.0], [2.0]])}
    >>> apply = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
    >>> groups = sparsejax.coupled_groups(apply, params, jnp.ones((1, 1))).groups
    >>> smaller = remove_units(groups, [np.array([True, False, True])], params)
    >>> smaller.shapes, smaller.params["a"].tolist()
    ({'a': (1, 2), 'b': (2, 1)}, [[1.0, 2.0]])
    """
    if (optimizer is None) != (opt_state is None):
        raise ValueError("an optimizer's state is cut only together with the optimizer")
    if round_to < 1:
        raise ValueError(f"round_to must be at least 1 unit, got {round_to}")
    gone: dict[tuple[bool, str, int], set[int]] = {}
    for group, lives in zip(groups, alive, strict=True):
        stays = _rounded_up(np.asarray(lives), round_to)
        if not stays.any():
            raise ValueError(f"no unit of {group.name!r} lives, and a layer needs at least one")
        if not stays.all() and group.feeds != 0:
            raise ValueError(
                f"dead units of {group.name!r} feed something else than 0 to the next layers, "
                "whose biases would have to make up for it"
            )
        for member in group.members:
            positions = gone.setdefault((member.role == "state", member.path, member.axis), set())
            positions.update(i for u in np.flatnonzero(~stays) for i in member.indices[u])

    def cut(is_state: bool, path: str, x: Any, skip: int = 0) -> Any:
        for axis in range(x.ndim - skip):
            lost = gone.get((is_state, path, axis))
            if lost:
                left = [i for i in range(x.shape[axis + skip]) if i not in lost]
                # On the host: each new shape would be one more program to compile.
                x = jnp.asarray(np.take(np.asarray(x), left, axis=axis + skip))
        return x

    def cut_tree(is_state: bool, tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, x: cut(is_state, path_name(path), x), tree
        )

    small = cut_tree(False, params)
    old, new = _by_path(params), _by_path(small)
    shapes = {path: x.shape for path, x in new.items() if x.shape != old[path].shape}
    small_opt_state = None
    if optimizer is not None:

        def cut_slots(slots: Any) -> Any:
            def entry(path: tuple[Any, ...], slot: Any) -> Any:
                # An optimizer may keep several arrays for one parameter, in a tuple in its place.
                names = (path_name(path[:end]) for end in range(len(path), -1, -1))
                name = next((name for name in names if name in old), None)
                if name is None:
                    return slot
                skip = max(slot.ndim - old[name].ndim, 0)
                return (
                    cut(False, name, slot, skip) if slot.shape[skip:] == old[name].shape else slot
                )

            return jax.tree_util.tree_map_with_path(entry, slots)

        slots = optax.tree.map_params(optimizer, cut_slots, opt_state, is_leaf=lambda _: True)
        small_opt_state = jax.tree.map(
            lambda slot, fresh: slot if jnp.shape(slot) == jnp.shape(fresh) else fresh,
            slots,
            optimizer.init(small),
        )
    return Smaller(small, cut_tree(True, state), small_opt_state, shapes)


def _rounded_up(alive: np.ndarray, round_to: int) -> np.ndarray:
    """The units that stay, the first of the dead ones among them where a multiple needs more."""
    wanted = min(-(-int(alive.sum()) // round_to) * round_to, len(alive))
    extra = np.flatnonzero(~alive)[: wanted - int(alive.sum())]
    return alive | np.isin(np.arange(len(alive)), extra)


def _by_path(tree: Any) -> dict[str, Any]:
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}
