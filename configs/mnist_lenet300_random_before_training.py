"""LeNet-300-100 on MNIST, pruned to 98 % before training at random, over all layers
together.

    python -m experiments.main --config configs/mnist_lenet300_random_before_training.py \
        --workdir runs/random_before_training

A baseline of Frankle et al. 2021, arXiv 2009.08576.

Time: about half a minute on two CPU cores. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = (
    "The paper has no LeNet-300-100; its networks are ResNet-20, VGG-16, ResNet-18 and ResNet-50."
)


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "at_initialization.random", "sparsity": 0.98})
    return config
