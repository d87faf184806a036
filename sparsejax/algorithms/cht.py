"""CHT: Cannistraci-Hebb training, growth by the topology alone."""

import jax
import jax.numpy as jnp
import optax

from sparsejax import distributions, masks, rounding, schedules, scores, topology, transforms
from sparsejax.typing import Amount, Distribution, Masks, Params, Prunable


def cht(
    sparsity: float | jax.Array,
    *,
    period: int = 400,
    end: int | None = None,
    drop_fraction: Amount = 0.3,
    output_axis: int = -1,
    distribution: Distribution = distributions.uniform,
    prunable: Prunable = masks.default_prunable,
    seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
    """Drops the smallest weights and grows where many short paths of the network already lead.

    Every `period` steps each layer loses the drop fraction of its connections with the smallest |w|
    and gains as many with the highest CH3-L3 score in the bipartite graph of what is left, at
    weight 0: for input u and output v, Σ 1 / √((1 + e_a)(1 + e_b)) over all paths u - a - b - v of
    three connections, where e is the number of connections of a (of b) that lead neither to u or v
    nor to a node between them. Entries without a path come last, in random order. Zhang et al.
    2024, "Epitopological learning and Cannistraci-Hebb network shape intelligence brain-inspired
    theory for ultra-sparse advantage in deep learning", ICLR 2024; there, `period` is an epoch.
    Without the paper's initial topology by correlation, removal of dead chains and early stop.

    A layer of n inputs and m outputs takes about n² m² multiply-adds an update. A kernel of more
    than two dimensions is one graph of its outputs and all entries that lead to them.

    Family:
      Sparse to sparse.

    Needs:
      Nothing beyond the weights.

    Args:
      sparsity: The fraction of weights off the mask, from 0 to 1; may be traced.
      period: Steps between two updates of the masks; the first comes at step `period`.
      end: The step of the last update; None for no end.
      drop_fraction: ζ, the fraction of connections to move, a number or a schedule; may be traced.
      output_axis: The axis of the output neurons.
      distribution: Shares the budget among the layers.
      prunable: `(path, leaf) -> bool`.
      seed: Seed of the first masks and of the growth without paths; may be traced.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: if a fraction or a step is out of range; by `init`, if no leaf is prunable.

    >>> import optax, sparsejax
    >>> tx = sparsejax.sparsify(optax.sgd(0.1), cht(0.8, period=1))
    >>> params = {"w": jnp.ones((10, 10))}
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     _, state = tx.update(params, state, params)
    >>> int(sparsejax.get_masks(state)["w"].sum())
    20
    """
    rounding.check_fraction("sparsity", sparsity)
    rounding.check_fraction("drop_fraction", drop_fraction)

    def init_masks(params: Params, key: jax.Array) -> Masks:
        return topology.random_masks(
            params, key, sparsity, distribution=distribution, prunable=prunable
        )

    def move_masks(
        old: Masks, params: Params, updates: Params, key: jax.Array, step: jax.Array
    ) -> Masks:
        stays = topology.drop_connections(
            old, scores.magnitude(params, updates, key), schedules.value_at(drop_fraction, step)
        )

        def score(mask: jax.Array, number: jax.Array) -> jax.Array:
            if not mask.ndim or not mask.size:
                return number.astype(jnp.float32)
            graph = jnp.moveaxis(mask, output_axis, -1)
            predicted = ch3_l3(graph.reshape(-1, graph.shape[-1])).reshape(graph.shape)
            predicted = jnp.moveaxis(predicted, -1, output_axis)
            return jnp.where(predicted > 0, predicted, -number.astype(jnp.float32))

        grow = jax.tree.map(score, stays, scores.random(params, updates, key))
        return topology.grow_connections(stays, grow, old)

    return transforms.mask_rule(init_masks, move_masks, schedules.every(period, period, end), seed)


def ch3_l3(graph: jax.Array) -> jax.Array:
    """Returns the CH3-L3 score of every pair that is not connected in a bipartite graph.

    Muscoloni et al. 2018, bioRxiv 346916. A path from u to v leads through an output a and an input
    b. The connections of a to nodes between u and v are those to inputs of v, so that e_a hangs on
    a and v alone, and e_b on b and u alone; what is left are matrix products.

    Args:
      graph: A bool array of shape (inputs, outputs).

    Returns:
      A float32 array of the same shape, to 12 bits, so that scores which are equal but for the
      order of a sum are equal.

    >>> graph = jnp.array([[True, False], [True, True], [False, False]])
    >>> ch3_l3(graph).tolist()[0][1], ch3_l3(graph).tolist()[2][0]
    (1.0, 0.0)
    """
    if graph.shape[0] > graph.shape[1]:  # one product of matrices for each input: let them be few
        return ch3_l3(graph.T).T
    a = graph.astype(jnp.float32)

    def weight(degree: jax.Array, common: jax.Array) -> jax.Array:
        # 1 + e: of all connections one leads to u or v, and those in common lie between.
        return jax.lax.rsqrt(jnp.maximum(degree - common, 1))

    by_output = weight(a.sum(0)[:, None], a.T @ a)  # (a, v)
    by_input = weight(a.sum(1)[None, :], a @ a.T)  # (u, b)

    def of_input(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        neighbours, weights = row
        through = (a * neighbours) @ by_output  # (b, v): all ways from u to b, with v in view
        return weights @ (a * through)

    scores = jax.lax.map(of_input, (a, by_input))
    return jax.lax.reduce_precision(scores, exponent_bits=8, mantissa_bits=12)
