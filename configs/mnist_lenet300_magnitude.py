"""LeNet-300-100 on MNIST, pruned once to 90 % by magnitude, half-way through training.

    python -m experiments.main --config configs/mnist_lenet300_magnitude.py --workdir runs/magnitude

Time: not measured yet. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "magnitude_pruning", "sparsity": 0.9})
    config.rule.distribution = "global_"
    config.rule.when = ConfigDict({"name": "once", "at": config.get_ref("steps") // 2})
    return config
