"""Mask trees: making them, applying them, finding them in an optimizer's state, counting them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax import selection
from sparsejax.typing import Masks, Params, Prunable


class Kept(NamedTuple):
    """How many entries of one parameter a mask keeps.

    Attributes:
      kept: Entries on the mask.
      total: Entries of the parameter.
    """

    kept: int
    total: int


def path_name(path: tuple[Any, ...]) -> str:
    """Returns the keys of a leaf's path joined by '/'.

    >>> [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path({"a": [1, {"b": 2}]})]
    ['a/0', 'a/1/b']
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def default_prunable(path: str, leaf: jax.Array) -> bool:
    """Prunes floating-point weights of two and more dimensions but biases, embeddings and norms.

    Args:
      path: The leaf's keys joined by '/'; one with "bias", "embed" or "norm" in it is left dense.
        (A convolution's bias has more than one axis in some libraries.)
      leaf: The parameter, of any shape.

    >>> default_prunable("Dense_0/kernel", jnp.ones((2, 3))), default_prunable("b", jnp.ones(3))
    (True, False)
    """
    name = path.lower()
    return (
        jnp.issubdtype(leaf.dtype, jnp.floating)
        and leaf.ndim >= 2
        and not any(word in name for word in ("bias", "embed", "norm"))
    )


def prunable_with_biases(path: str, leaf: jax.Array) -> bool:
    """Prunes what `default_prunable` does, and the biases of those layers.

    A bias is a floating-point parameter with "bias" in its path; those of norms are left dense.

    Args:
      path: The leaf's keys joined by '/'.
      leaf: The parameter, of any shape.

    >>> bias = jnp.ones(3)
    >>> prunable_with_biases("Dense_0/bias", bias), prunable_with_biases("LayerNorm_0/bias", bias)
    (True, False)
    """
    name = path.lower()
    is_bias = "bias" in name and not any(word in name for word in ("embed", "norm"))
    return default_prunable(path, leaf) or (is_bias and jnp.issubdtype(leaf.dtype, jnp.floating))


def dense_masks(params: Params, prunable: Prunable = default_prunable) -> Masks:
    """Returns the masks that keep everything.

    Args:
      params: Any pytree of arrays.
      prunable: `(path, leaf) -> bool`.

    Returns:
      For each prunable leaf an array of its shape, all True; for the others a scalar True.

    >>> masks = dense_masks({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})
    >>> masks["kernel"].shape, masks["bias"].shape
    ((2, 3), ())
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, p: jnp.ones_like(p, bool) if prunable(path_name(path), p) else jnp.array(True),
        params,
    )


def apply_masks(params: Params, masks: Masks) -> Params:
    """Sets every entry off the mask to exactly 0, whatever it was, NaN included.

    Args:
      params: Any pytree of arrays.
      masks: The mask tree; a leaf may also stand for a whole subtree of the parameters.

    Returns:
      A pytree with the structure, shapes and dtypes of `params`.

    >>> params = {"w": jnp.array([jnp.nan, 2.0])}
    >>> apply_masks(params, {"w": jnp.array([False, True])})["w"].tolist()
    [0.0, 2.0]
    """
    return jax.tree.map(
        lambda p, m: jnp.where(m, p, jnp.zeros_like(p)), params, spread(masks, params)
    )


def straight_through(params: Params, masks: Masks) -> Params:
    """Returns masked parameters whose gradient is that of the dense ones.

    The value is `where(mask, p, 0)`; the gradient passes as if nothing were masked, so that weights
    off the mask learn and may come back. Bengio et al. 2013, arXiv 1308.3432.

    Args:
      params: Any pytree of arrays.
      masks: The mask tree; a leaf may also stand for a whole subtree of the parameters.

    >>> masks = {"w": jnp.array([False, True])}
    >>> loss = lambda p: jnp.sum(3 * straight_through(p, masks)["w"])
    >>> value, grads = jax.value_and_grad(loss)({"w": jnp.array([1.0, 2.0])})
    >>> float(value), grads["w"].tolist()
    (6.0, [3.0, 3.0])
    """
    return jax.tree.map(_straight_through, params, spread(masks, params))


def get_masks(opt_state: Any) -> Masks:
    """Finds the mask tree in an optimizer's state, however deep it lies in chains and wrappers.

    Where several rules each hold masks of some of the parameters (`optax.multi_transform`), they
    are put together; parameters that no rule knows get a scalar True.

    Args:
      opt_state: The state of any optax transformation that contains a mask rule.

    Raises:
      ValueError: if there are no masks in the state, or two masks of one parameter.

    >>> import optax, sparsejax
    >>> params = {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}
    >>> tx = sparsejax.sparsify(optax.sgd(0.1), sparsejax.static(0.75))
    >>> masks = get_masks(optax.chain(optax.clip(1.0), tx).init(params))
    >>> int(masks["kernel"].sum()), bool(masks["bias"])
    (4, True)
    """
    found = find_in_state(opt_state, "masks")
    if not found:
        raise ValueError(
            "there are no masks in this optimizer state; is one of sparsejax's rules part of the "
            "transformation, e.g. sparsify(optax.adam(1e-3), rigl(0.9))?"
        )
    return put_together(found)


def find_in_state(opt_state: Any, field: str) -> list[Any]:
    """Returns the values of all NamedTuple fields of this name in an optimizer's state.

    >>> import optax
    >>> len(find_in_state(optax.adam(0.1).init(jnp.ones(2)), "mu"))
    1
    """
    # Parameters may be called `masks` too; only a state's own field counts.
    return [
        value
        for _, value in optax.tree.get_all_with_path(
            opt_state,
            field,
            filtering=lambda path, _: isinstance(path[-1], optax.tree_utils.NamedTupleKey),
        )
    ]


def forward_params(params: Params, opt_state: Any) -> Params:
    """Returns what the forward pass must use for the method in the state.

    Under `sparsify` these are the parameters themselves, already 0 off the mask. Methods whose
    stored weights stay dense (`optax.chain(optimizer, rule)` and `behind(optimizer, rule)`) get
    `straight_through(params, masks)`.

    Args:
      params: The parameters, as stored.
      opt_state: The state of the transformation that trains them.

    >>> import optax, sparsejax
    >>> params = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
    >>> tx = optax.chain(optax.sgd(0.1), sparsejax.ste_magnitude(0.5))
    >>> forward_params(params, tx.init(params))["kernel"].tolist()
    [[0.0, 0.0], [3.0, 4.0]]
    """
    # The names of the two states' fields tell which it is, inside any chain and wrapper.
    if find_in_state(opt_state, "mask_state"):
        return params
    return straight_through(params, get_masks(opt_state))


def counts(params: Params, masks: Masks) -> dict[str, Kept]:
    """Counts the kept entries of every masked parameter, exactly.

    Args:
      params: The parameters, or their shapes (`jax.ShapeDtypeStruct`).
      masks: The mask tree.

    Returns:
      By path, for each parameter whose mask is no scalar, whole numbers of the host.

    >>> masks = {"conv": jnp.array([[[[True, False, True]]]]), "bias": jnp.array(True)}
    >>> params = {"conv": jnp.ones((5, 5, 1, 3)), "bias": jnp.ones(3)}
    >>> counts(params, masks)
    {'conv': Kept(kept=50, total=75)}
    """
    result = {}
    by_leaf = jax.tree.leaves(spread(masks, params))
    for (path, p), m in zip(jax.tree_util.tree_leaves_with_path(params), by_leaf, strict=True):
        if m.ndim:
            total = math.prod(p.shape)
            kept = int(selection.count(m, tuple(range(m.ndim))).reshape(()))
            result[path_name(path)] = Kept(kept * (total // max(m.size, 1)), total)
    return result


def spread(masks: Masks, params: Params, hole: bool | float = True) -> Masks:
    """Returns the masks in exactly the structure of the parameters.

    A leaf that stands for a subtree is repeated; where a wrapper left a hole, nothing is masked.
    `hole` is what stands there in trees of something else.

    >>> masks = spread({"a": jnp.array(True)}, {"a": {"w": jnp.ones(2), "b": jnp.ones(1)}})
    >>> sorted(masks["a"])
    ['b', 'w']
    """
    return jax.tree.map(lambda m, p: jax.tree.map(lambda _: m, p), _fill_holes(masks, hole), params)


def _is_hole(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def _fill_holes(masks: Masks, hole: bool | float) -> Masks:
    return jax.tree.map(
        lambda m: jnp.array(hole) if _is_hole(m) else jnp.asarray(m), masks, is_leaf=_is_hole
    )


def put_together(trees: Sequence[Masks], hole: bool | float = True) -> Masks:
    """Returns one mask tree of several that each know some of the parameters, `hole` elsewhere.

    Raises:
      ValueError: if two hold a mask of one parameter.

    >>> trees = [{"a": jnp.array(False), "b": optax.MaskedNode()}, {"a": optax.MaskedNode(),
    ...          "b": optax.MaskedNode()}]
    >>> jax.tree.map(bool, put_together(trees))
    {'a': False, 'b': True}
    """
    return _put_together((), hole, *trees)


def _put_together(path: tuple[Any, ...], hole: bool | float, *masks: Any) -> Masks:
    """A hole in one tree may stand for a whole subtree of another."""
    known = [m for m in masks if not _is_hole(m)]
    if not known:
        return jnp.array(hole)
    if len(known) == 1:
        return _fill_holes(known[0], hole)
    if jax.tree_util.all_leaves(known[:1]):
        raise ValueError(f"two rules hold a mask of the parameter {path_name(path)!r}")
    return jax.tree_util.tree_map_with_path(
        lambda key, *below: _put_together((*path, *key), hole, *below),
        *known,
        is_leaf=lambda x: x is not known[0],
    )


@jax.custom_jvp
def _straight_through(p: jax.Array, m: jax.Array) -> jax.Array:
    return jnp.where(m, p, jnp.zeros_like(p))


@_straight_through.defjvp
def _straight_through_jvp(primals: Any, tangents: Any) -> Any:
    return _straight_through(*primals), tangents[0]
