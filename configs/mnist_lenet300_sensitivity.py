"""LeNet-300-100 on MNIST: how much of each layer can go before the network notices.

    python -m experiments.main --config configs/mnist_lenet300_sensitivity.py \
        --workdir runs/sensitivity

The dense reference of `configs/mnist_lenet300_han2015.py` is trained; then the smallest weights of
one layer are removed, of each layer in turn, and of all together, without retraining (Han et al.
2015, figure 6).

Time: about 1 minute on one CPU core. Result: pruned alone by 80 %, no layer costs
more than 1 point, by 95 % each costs 3 to 6. The figure is in RESULTS.md.
"""

from matplotlib.figure import Figure
from ml_collections import ConfigDict

from configs import mnist_lenet300_han2015
from configs.han2015 import sensitivity_figure, sensitivity_of
from experiments.grid import Overrides, seeds
from experiments.runs import Run

PAPER = "han2015"
PUBLISHED = "The paper draws this figure for AlexNet alone."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    return sensitivity_of(mnist_lenet300_han2015.get_config())


def sweep() -> list[Overrides]:
    """Returns three seeds."""
    return seeds(3)


def _figure(runs: list[Run]) -> Figure:
    return sensitivity_figure("Sensitivity to pruning: LeNet-300-100 on MNIST", runs)


FIGURES = {"mnist_lenet300_sensitivity": _figure}
