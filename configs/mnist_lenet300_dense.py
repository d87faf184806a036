"""LeNet-300-100 on MNIST, dense: what the sparse networks are compared with."""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300


def get_config() -> ConfigDict:
    """Returns the configuration."""
    return mnist_lenet300()
