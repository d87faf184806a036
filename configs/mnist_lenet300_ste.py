"""LeNet-300-100 on MNIST, 90 % of the weights masked in each forward pass (straight-through).

    python -m experiments.main --config configs/mnist_lenet300_ste.py --workdir runs/ste

Time: about half a minute on two CPU cores. Result: test accuracy 98.42 ± 0.02 %
(mean and standard deviation of the seeds 0, 1, 2: 98.41, 98.44, 98.41), 27,030 of 266,610
parameters kept.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "A setting of this project's own: no paper has a figure for it."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "ste_magnitude", "sparsity": 0.9})
    config.transform = ConfigDict({"name": "chain"})
    return config
