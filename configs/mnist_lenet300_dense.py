"""LeNet-300-100 on MNIST, dense: what the sparse networks are compared with.

    python -m experiments.main --config configs/mnist_lenet300_dense.py --workdir runs/dense

Time: not measured yet. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300


def get_config() -> ConfigDict:
    """Returns the configuration."""
    return mnist_lenet300()
