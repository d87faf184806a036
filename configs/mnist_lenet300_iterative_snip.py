"""LeNet-300-100 on MNIST, pruned to 98 % before training by SNIP's scores in 60 rounds.

    python -m experiments.main --config configs/mnist_lenet300_iterative_snip.py \
        --workdir runs/iterative_snip

de Jorge et al. 2020, arXiv 2006.09081: 60 rounds, one batch.

Time: about half a minute on two CPU cores. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "The paper has no LeNet-300-100; its networks are VGG and ResNet."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "at_initialization.iterative_snip", "sparsity": 0.98})
    return config
