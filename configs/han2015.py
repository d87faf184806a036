"""What the experiments of Han et al. 2015, arXiv 1506.02626, share."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from experiments.config import default


def pruned_in_rounds(
    *, dense: int, period: int, rounds: int, steps: int, kept: Mapping[str, float]
) -> ConfigDict:
    """Returns the training of a network on MNIST that is pruned in rounds and retrained.

    SGD with momentum and L2, as the examples of Caffe train these networks; retraining has a tenth
    of the learning rate.

    Args:
      dense: steps of the dense training.
      period: steps from one pruning to the next.
      rounds: prunings; the sparsity of each layer runs along 1 - (1 - t)³, so that the first takes
        most and the last least.
      steps: steps in all.
      kept: by path pattern, the share of each layer's weights that is left in the end.
    """
    last = dense + (rounds - 1) * period
    config = default()
    config.data = ConfigDict({"name": "mnist"})
    config.steps = steps
    config.log_every = 100
    config.eval_every = 1_000
    config.weight_decay = 5e-4
    config.optimizer = ConfigDict({"name": "sgd", "momentum": 0.9})
    rate = ConfigDict({"name": "exponential_decay", "staircase": True, "decay_rate": 0.1})
    rate.init_value = 0.02
    rate.end_value = rate.get_ref("init_value") * 0.1  # one drop, and no more
    rate.transition_steps = dense
    config.optimizer.learning_rate = rate
    config.rule = ConfigDict({"name": "magnitude_pruning"})
    config.rule.when = ConfigDict({"name": "every", "period": period, "begin": dense, "end": last})
    cubic = {"name": "cubic", "begin": dense - period, "end": last}
    config.rule.sparsity = ConfigDict(
        {layer: {**cubic, "final": round(1 - share, 6)} for layer, share in kept.items()}
    )
    return config
