"""LeNet-300-100 on MNIST, dense: what the sparse networks are compared with.

    python -m experiments.main --config configs/mnist_lenet300_dense.py --workdir runs/dense

Time: about half a minute on two CPU cores. Result: test accuracy 98.57 ± 0.16 %
(mean and standard deviation of the seeds 0, 1, 2: 98.60, 98.72, 98.40), 266,610 of 266,610
parameters kept.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "What the sparse networks are compared with: no paper's own setting."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    return mnist_lenet300()
