"""LeNet-300-100 on MNIST: accuracy against the share of weights pruned (Han et al. 2015, figure 5).

    python -m experiments.sweep --config configs/mnist_lenet300_tradeoff.py --workdir runs/tradeoff

The sweep has five curves: pruned after training with L1 or L2 and not retrained, the same
retrained, and pruned and retrained in rounds with L2. One run, here with L2 at 90 % and retrained:

    python -m experiments.main --config configs/mnist_lenet300_tradeoff.py --workdir runs/tradeoff90

Every network takes the same 6,000 steps, half of them before the first pruning; the smallest
weights of all layers together go.

Time: about 10 seconds a run on one CPU core, 40 runs. Result: without retraining L1 bears 90 %
where L2 bears 80 %; retrained, 90 % cost 0.1 to 0.3 points and 98 % about 1.6, in rounds or at
once. The figure is in RESULTS.md.
"""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from ml_collections import ConfigDict

from configs.han2015 import pruned_in_rounds, tradeoff_figure
from experiments.grid import Overrides, chain, over, product, seeds
from experiments.runs import Run

PAPER = "han2015"
PUBLISHED = "The paper draws this figure for AlexNet alone."

_DENSE, _PERIOD, _LAST = 3_000, 600, 4_200
_SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
_NOT_RETRAINED = (0.0, 0.2, 0.3, 0.4, *_SPARSITIES)
_L1: Overrides = {"l1": 5e-5, "weight_decay": 0.0}


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = pruned_in_rounds(dense=_DENSE, period=_PERIOD, rounds=3, steps=6_000, kept={})
    config.batch_size = 60
    config.eval_every = 500
    config.rule = ConfigDict(_once(0.9))
    return config


def sweep() -> list[Overrides]:
    """Returns the runs of the five curves, two seeds each."""
    procedure = {
        "name": "sensitivity",
        "sparsities": _NOT_RETRAINED,
        "distribution": "global_",
    }
    regularizers: list[Overrides] = [{}, _L1]
    return product(
        chain(
            product(regularizers, [{"rule": None, "procedure": procedure}]),
            product(regularizers, over("rule", map(_once, _SPARSITIES))),
            over("rule", map(_in_rounds, _SPARSITIES)),
        ),
        seeds(2),
    )


def _once(sparsity: float) -> Mapping[str, Any]:
    when = {"name": "once", "at": _DENSE}
    return _rule(sparsity, when)


def _in_rounds(sparsity: float) -> Mapping[str, Any]:
    cubic = {"name": "cubic", "begin": _DENSE - _PERIOD, "end": _LAST, "final": sparsity}
    return _rule(cubic, {"name": "every", "period": _PERIOD, "begin": _DENSE, "end": _LAST})


def _rule(sparsity: Any, when: Mapping[str, Any]) -> Mapping[str, Any]:
    rule = {"name": "magnitude_pruning", "distribution": "global_"}
    return {**rule, "sparsity": sparsity, "when": when}


def _figure(runs: list[Run]) -> Figure:
    return tradeoff_figure("Pruning and accuracy: LeNet-300-100 on MNIST", runs)


FIGURES = {"mnist_lenet300_tradeoff": _figure}
