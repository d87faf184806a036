"""LeNet-300-100 on MNIST, pruned to 98 % before training by SynFlow: without data, in 100
rounds.

    python -m experiments.main --config configs/mnist_lenet300_synflow.py --workdir runs/synflow

Tanaka et al. 2020, arXiv 2006.05467.

Time: about half a minute on two CPU cores. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "The paper has no LeNet-300-100; its networks are VGG and ResNet."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "at_initialization.synflow", "sparsity": 0.98})
    return config
