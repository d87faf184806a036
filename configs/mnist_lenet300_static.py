"""LeNet-300-100 on MNIST, a random network of 90 % sparsity that stays as it is.

    python -m experiments.main --config configs/mnist_lenet300_static.py --workdir runs/static

Time: not measured yet. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "static", "sparsity": 0.9, "distribution": "erk"})
    return config
