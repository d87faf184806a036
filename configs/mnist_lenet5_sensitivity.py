"""LeNet-5 (Caffe) on MNIST: how much of each layer can go before the network notices.

    python -m experiments.main --config configs/mnist_lenet5_sensitivity.py \
        --workdir runs/sensitivity5

The dense reference of `configs/mnist_lenet5_han2015.py` is trained; then the smallest weights of
one layer are removed, of each layer in turn, and of all together, without retraining (Han et al.
2015, figure 6).

Time: about 8 minutes on one CPU core. Result: the first convolution bears the least:
pruned alone by 90 % it costs 7 points, the others at most 2. The figure is in RESULTS.md.
"""

from matplotlib.figure import Figure
from ml_collections import ConfigDict

from configs import mnist_lenet5_han2015
from configs.han2015 import sensitivity_figure, sensitivity_of
from experiments.grid import Overrides, seeds
from experiments.runs import Run

PAPER = "han2015"
PUBLISHED = "The paper draws this figure for AlexNet alone."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    return sensitivity_of(mnist_lenet5_han2015.get_config())


def sweep() -> list[Overrides]:
    """Returns one seed."""
    return seeds(1)


def _figure(runs: list[Run]) -> Figure:
    return sensitivity_figure("Sensitivity to pruning: LeNet-5 on MNIST", runs)


FIGURES = {"mnist_lenet5_sensitivity": _figure}
