"""LeNet-300-100 on MNIST, pruned to 98 % before training by GraSP: for the flow of
gradients.

    python -m experiments.main --config configs/mnist_lenet300_grasp.py --workdir runs/grasp

Wang et al. 2020, arXiv 2002.07376, with the paper's temperature of 200. One batch of 128 examples
stands for its ten of each class.

Time: about half a minute on two CPU cores. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "The paper has no LeNet-300-100; its networks are VGG and ResNet."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "at_initialization.grasp", "sparsity": 0.98})
    return config
