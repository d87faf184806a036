"""What a network costs, as a run's summary holds it."""

import inspect
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

import sparsejax
from experiments import at_initialization, build
from sparsejax import metrics
from sparsejax.typing import Masks

# Rules whose training FLOPs follow from the final densities alone. Without a rule the masks stay.
_ACCOUNTING: dict[Any, metrics.Method] = {
    None: "static",
    "static": "static",
    "set_": "set",
    "rigl": "rigl",
}


def costs(
    model: nn.Module,
    example: jax.ShapeDtypeStruct,
    variables: dict[str, Any],
    masks: Masks,
    rule: ConfigDict | str | None,
) -> dict[str, Any]:
    """Returns the FLOPs and the bytes of a network.

    Args:
      model: maps ``(images, train)`` to logits.
      example: shape and type of a batch of one example, as the model takes it.
      variables: the model's ``params`` and ``batch_stats``.
      masks: masks of the parameters.
      rule: the configuration's rule; None for a dense network, or for masks that stay.

    Returns:
      ``flops``: those of a forward pass of one example, ``dense`` (were nothing masked) and
      ``sparse``, and the mean of a step's for one example in ``training``, None where they depend
      on how the densities went (`sparsejax.metrics.flops`, `sparsejax.metrics.training_flops`).
      ``bytes``: the parameters' ``dense``, and ``sparse`` as bitmasks with the kept values
      (`sparsejax.metrics.nbytes`).
    """
    params, rest = variables["params"], {k: v for k, v in variables.items() if k != "params"}
    forward = metrics.flops(
        lambda p, x: model.apply({"params": p, **rest}, x, train=False),
        params,
        example,
        masks=masks,
    )
    dense, sparse = forward.total_dense, forward.total_sparse
    name = None if rule is None else build.name_of(rule)
    # What is pruned before training does not move; finding the masks is no step of it.
    before_training = name is not None and name.startswith(at_initialization.PREFIX)
    method = "static" if before_training else _ACCOUNTING.get(name)
    training = None
    if method is not None:
        period = _period(rule) if method == "rigl" else None
        training = metrics.training_flops(method, dense, sparse, period)
    size = metrics.nbytes(params, masks)
    return {
        "flops": {"dense": dense, "sparse": sparse, "training": training},
        "bytes": {"dense": size.dense, "sparse": size.sparse},
    }


def _period(rule: ConfigDict | str | None) -> int:
    """RigL's steps between two updates."""
    default: int = inspect.signature(sparsejax.rigl).parameters["period"].default
    return default if rule is None or isinstance(rule, str) else rule.get("period", default)
