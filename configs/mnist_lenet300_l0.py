"""LeNet-300-100 on MNIST, with stochastic gates at the inputs of each layer (L0 regularization).

    python -m experiments.main --config configs/mnist_lenet300_l0.py \
        --workdir runs/l0

Louizos et al. 2018, arXiv 1712.01312, with its penalty of 0.1 / 60,000 for each weight.

Time: about a minute on two CPU cores. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = (
    "The paper has figures of layers that are left and of errors; they are not set beside this yet."
)


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "reparameterization.l0", "strength": 0.1 / 60_000})
    config.rule.structure = ConfigDict({"name": "channel", "axis": -2})
    config.transform.name = "reparameterize"
    return config
