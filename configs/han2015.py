"""What the experiments of Han et al. 2015, arXiv 1506.02626, share."""

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from ml_collections import ConfigDict

from experiments.config import default
from experiments.grid import override
from experiments.pruning_figures import against_sparsity
from experiments.runs import Run

SPARSITIES = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)


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
    rate.init_value = 0.05
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


def sensitivity_of(config: ConfigDict) -> ConfigDict:
    """Returns the measurement of the sensitivity of a configuration's dense reference."""
    procedure = {"name": "sensitivity", "sparsities": SPARSITIES, "distribution": "global_"}
    return override(config, {"rule": None, "procedure": procedure})


def sensitivity_figure(title: str, runs: Sequence[Run]) -> Figure:
    """Draws the accuracy of networks of which one layer, or all, were pruned without retraining."""
    series: dict[str, dict[float, list[float]]] = {}
    for run in runs:
        for point in (run.summary or {})["sensitivity"]:
            name = (point["layer"] or "all layers").removesuffix("/kernel")
            values = series.setdefault(name, {}).setdefault(point["sparsity"], [])
            values.append(100 * point["accuracy"])
    return against_sparsity(
        title, "test accuracy, %, not retrained", series, dashed=("all layers",)
    )


def tradeoff_figure(title: str, runs: Sequence[Run]) -> Figure:
    """Draws the accuracy that pruning costs, with L1 and L2, with and without retraining."""
    kinds = ("not retrained", "retrained", "pruned and retrained in rounds")
    accuracies: dict[str, dict[float, list[float]]] = {
        f"{norm}, {kind}": {} for kind in kinds for norm in ("L2", "L1")
    }
    for run in runs:
        norm, summary = "L1" if run.config["l1"] else "L2", run.summary or {}
        if run.config["rule"] is None:
            kind, points = kinds[0], [p for p in summary["sensitivity"] if p["layer"] is None]
        else:
            kind = kinds[1 + (run.config["rule"]["when"]["name"] == "every")]
            points = [{"sparsity": summary["sparsity"], "accuracy": summary["test_accuracy"]}]
        for point in points:
            values = accuracies[f"{norm}, {kind}"].setdefault(round(point["sparsity"], 4), [])
            values.append(100 * point["accuracy"])
    reference = statistics.mean(accuracies["L2, not retrained"][0.0])
    gains = {
        name: {
            sparsity: [value - reference for value in values] for sparsity, values in line.items()
        }
        for name, line in accuracies.items()
        if line
    }
    return against_sparsity(
        title,
        "test accuracy against the dense network with L2, points",
        gains,
        dashed=[name for name in gains if kinds[0] in name],
        lowest=-4.5,
    )
