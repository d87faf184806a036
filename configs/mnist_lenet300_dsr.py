"""LeNet-300-100 on MNIST, trained sparse at 90 % with dynamic sparse reparameterization (DSR).

    python -m experiments.main --config configs/mnist_lenet300_dsr.py --workdir runs/dsr

Time: not measured yet. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = (
    "A setting of this project's own: the paper trains LeNet-300-100 for 100 epochs with SGD, and "
    "shows the accuracies as a picture."
)


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    # The paper moves 600 of this network's 26,620 connections at an update.
    config.rule = ConfigDict({"name": "dsr", "sparsity": 0.9, "period": 100})
    config.rule.drop_fraction = 0.0225
    config.rule.end = config.get_ref("steps") * 3 // 4
    return config
