"""Training in packed form: the parameters, their gradients and all slots of the optimizer are
(count,) values, and the topology lies beside them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr

from sparsejax.packed import places
from sparsejax.transforms import MaskState, reset_slots, slot_masks
from sparsejax.typing import Masks, Params


class PackedState(NamedTuple):
    """All that packed training keeps from step to step.

    Attributes:
      values: The packed parameters.
      topology: Where the values belong.
      rule_state: The state of the mask rule, without its masks.
      inner_state: The state of the optimizer, of the packed parameters.
    """

    values: Params
    topology: Any
    rule_state: MaskState
    inner_state: Any

    def params(self) -> Params:
        """Returns the dense parameters, exactly 0 off the masks."""
        return places.unpack(self.values, self.topology)

    def masks(self) -> Masks:
        """Returns the mask tree."""
        return places.masks_of(self.topology)

    def weights(self) -> Params:
        """Returns parameters whose sparse leaves are sparse matrices."""
        return places.weights(self.values, self.topology)


class Trainer(NamedTuple):
    """Two pure functions.

    Attributes:
      init: `params -> PackedState`.
      step: `(state, loss) -> (state, value)`, or with `has_aux=True` `(state, (value, aux))`.
    """

    init: Callable[[Params], PackedState]
    step: Callable[..., tuple[PackedState, Any]]


def packed(
    inner: optax.GradientTransformation,
    rule: optax.GradientTransformation,
    *,
    replace_step: bool = False,
) -> Trainer:
    """Trains as `sparsify(inner, rule)` does, and holds nothing but what is on the masks.

    The same seed gives the same masks, and parameters that differ by rounding. The optimizer sees
    vectors of values in the place of matrices, so it should treat each weight for itself, as SGD
    and Adam do; Adafactor and Muon do something else with vectors.

    `loss(weights)` is given a pytree with the structure of the parameters in which each sparse leaf
    is a matrix for `kernels.sparse_matmul`. At a step where the masks move it is called with dense
    arrays in their place as well, for the gradient off the masks, if the rule or the step after it
    asks for that: RigL does, and with `replace_step` SET does not. Only at such a step anything of
    the dense shape is in memory.

    Args:
      inner: Any optax transformation that is elementwise.
      rule: A mask rule whose masks always keep the same number of entries of each parameter, such
        as `rigl`, `set_`, `static` or `fixed`. If a count does change, all values become NaN.
      replace_step: Whether an update of the masks takes the place of the gradient step.

    Returns:
      `init` and `step`, for use under `jax.jit` and `jax.lax.scan`.

    Raises:
      ValueError: by `init`, if the rule is not a mask rule alone (one that acts on gradients too,
        a dense rule, a wrapper), or its masks are not of the shapes of the parameters.

    >>> import optax, sparsejax
    >>> from sparsejax.kernels import sparse_matmul
    >>> trainer = packed(optax.adam(0.1), sparsejax.rigl(0.75, period=2), replace_step=True)
    >>> state = trainer.init({"w": jnp.ones((4, 4)), "b": jnp.zeros(4)})
    >>> loss = lambda p: jnp.sum((sparse_matmul(jnp.ones((2, 4)), p["w"]) + p["b"]) ** 2)
    >>> for _ in range(3):
    ...     state, value = trainer.step(state, loss)
    >>> state.values["w"].shape, state.params()["w"].shape
    ((4,), (4, 4))
    """
    inner = optax.with_extra_args_support(inner)
    rule = optax.with_extra_args_support(rule)

    def init(params: Params) -> PackedState:
        rule_state = rule.init(params)
        if not isinstance(rule_state, MaskState):
            raise ValueError(
                "packed training takes a mask rule alone, such as rigl(0.9), but the state of this "
                f"one is a {type(rule_state).__name__}"
            )
        traced = jax.make_jaxpr(lambda updates: rule.update(updates, rule_state, params)[0])(params)
        if traced.jaxpr.outvars != traced.jaxpr.invars:
            raise ValueError("packed training takes a rule that passes gradients on as they are")
        topology = places.topology_of(params, rule_state.masks)
        values = places.pack(params, topology)
        inner_state = inner.init(values)
        slot_masks(inner, inner_state, values, values)  # refuses what it cannot reset
        return PackedState(values, topology, _without_masks(rule_state), inner_state)

    def moves(state: PackedState) -> jax.Array:
        zeros = state.params()
        return rule.update(zeros, _with_masks(state), zeros)[1].moved

    def move(state: PackedState, loss: Callable[..., Any]) -> tuple[PackedState, Params]:
        """The state after an update of the masks, and the gradients at the new places."""
        params = state.params()
        grads = jax.grad(loss)(params)
        _, rule_state = rule.update(grads, _with_masks(state), params)
        topology = jax.tree.map(
            lambda old, mask: places.places_of(mask, old.count) if places.is_places(old) else mask,
            state.topology,
            rule_state.masks,
            is_leaf=places.is_places,
        )
        found, stays, values = _compare(state.topology, topology, rule_state.masks, state.values)
        inner_state = jax.tree.map(
            lambda at, slot: slot if at is True else jnp.take(slot, at, axis=-1),
            slot_masks(inner, state.inner_state, state.values, found),
            state.inner_state,
        )
        inner_state = reset_slots(inner, inner_state, values, stays)
        state = PackedState(values, topology, _without_masks(rule_state), inner_state)
        return state, places.pack(grads, topology)

    def step(
        state: PackedState, loss: Callable[..., Any], *, has_aux: bool = False
    ) -> tuple[PackedState, Any]:
        value, grads = jax.value_and_grad(
            lambda values: loss(places.weights(values, state.topology)), has_aux=has_aux
        )(state.values)
        alone = (lambda params: loss(params)[0]) if has_aux else loss
        moved = _only_what_counts(moves, state)
        count = optax.safe_increment(state.rule_state.count)

        def turn(carry: Any) -> Any:
            _, state, grads = carry
            state, at_new_places = move(state, alone)
            # No step follows that would use them, and a rule such as SET does without, too: then
            # XLA leaves the dense gradient out.
            return jnp.zeros_like(moved), state, grads if replace_step else at_new_places

        if moved is not False:
            # A loop of at most one turn: lax.cond would copy everything at every step.
            _, state, grads = jax.lax.while_loop(
                lambda carry: carry[0], turn, (_after(grads, moved), state, grads)
            )
        rule_state = state.rule_state._replace(count=count, moved=jnp.asarray(moved))
        state = state._replace(rule_state=rule_state)

        def train(values: Params, inner_state: Any) -> tuple[Params, Any]:
            extra = {"value": value[0] if has_aux else value, "grad": grads}
            updates, inner_state = inner.update(grads, inner_state, values, **extra)
            return optax.apply_updates(values, updates), inner_state

        new = train(state.values, state.inner_state)
        if replace_step and moved is not False:
            # Not lax.cond: chosen entry by entry, nothing is copied.
            same = state.values, state.inner_state
            new = jax.tree.map(lambda old, new: jnp.where(moved, old, new), same, new)
        return state._replace(values=new[0], inner_state=new[1]), value

    return Trainer(init, step)


def _only_what_counts(moves: Callable[[PackedState], jax.Array], state: PackedState) -> Any:
    """Whether the masks move, without the rest of the rule; False where they never do.

    What only the rule's masks need is left out, so nothing is made dense to ask this.
    """
    whole = jax.make_jaxpr(moves)(state)
    lean, used = dce_jaxpr(whole.jaxpr, [True])
    arguments = [x for x, is_used in zip(jax.tree.leaves(state), used, strict=True) if is_used]
    function = jaxpr_as_fun(ClosedJaxpr(lean, whole.consts))
    if arguments:
        return function(*arguments)[0]
    with jax.ensure_compile_time_eval():
        moved = function()[0]
    return moved if moved else False


def _after(tree: Any, flag: jax.Array) -> jax.Array:
    """The same flag, which XLA cannot know before it has computed the tree.

    What a loop changes is changed in place only if nothing else needs it as it was: then XLA has
    to be told that the gradients come first.
    """
    firsts = [leaf.ravel()[0].astype(jnp.float32) for leaf in jax.tree.leaves(tree) if leaf.size]
    bits = [jax.lax.bitcast_convert_type(first, jnp.int32) for first in firsts]
    return flag & (functools.reduce(jnp.bitwise_or, bits, jnp.int32(1)) != 0)


def _without_masks(state: MaskState) -> MaskState:
    return state._replace(masks=(), stays=())


def _with_masks(state: PackedState) -> MaskState:
    masks = state.masks()
    return state.rule_state._replace(masks=masks, stays=masks)


def _compare(old: Any, new: Any, masks: Masks, values: Params) -> tuple[Params, Params, Params]:
    """Where each new entry was among the old ones, whether it was there, and the new values."""

    def compare(t: Any, u: Any, mask: jax.Array, v: jax.Array) -> tuple[Any, Any, Any]:
        if not places.is_places(t) or not t.count:
            return jnp.zeros((), jnp.int32), jnp.ones((), bool), v
        before, after = t.flat(), u.flat()
        found = jnp.clip(jnp.searchsorted(before, after), 0, max(t.count - 1, 0))
        stay = before[found] == after
        moved = jnp.where(stay, v[found], jnp.zeros_like(v))
        # A topology of another size has no place here: that shall be seen.
        return found, stay, jnp.where(mask.sum() == t.count, moved, jnp.full_like(v, jnp.nan))

    compared = jax.tree.map(compare, old, new, masks, values, is_leaf=places.is_places)
    leaves = jax.tree.leaves(compared, is_leaf=lambda x: isinstance(x, tuple))
    tree = jax.tree.structure(values)
    return tuple(jax.tree.unflatten(tree, part) for part in zip(*leaves, strict=True))
