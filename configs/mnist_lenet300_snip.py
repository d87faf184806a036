"""LeNet-300-100 on MNIST, pruned to 90 % before training by the sensitivity of the loss (SNIP).

    python -m experiments.main --config configs/mnist_lenet300_snip.py --workdir runs/snip

Time: not measured yet. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "snip", "sparsity": 0.9})
    config.transform.replace_step = True
    return config
