"""LeNet-300-100 on MNIST, 90 % of the weights masked in each forward pass (straight-through).

    python -m experiments.main --config configs/mnist_lenet300_ste.py --workdir runs/ste

Time: not measured yet. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "ste_magnitude", "sparsity": 0.9})
    config.transform = ConfigDict({"name": "chain"})
    return config
