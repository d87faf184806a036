"""LeNet-300-100 on MNIST, pruned once to 90 % by magnitude, half-way through training.

    python -m experiments.main --config configs/mnist_lenet300_magnitude.py --workdir runs/magnitude

Time: about half a minute on two CPU cores. Result: test accuracy 98.28 ± 0.17 %
(mean and standard deviation of the seeds 0, 1, 2: 98.41, 98.08, 98.34), 27,030 of 266,610
parameters kept.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "A setting of this project's own: no paper has a figure for it."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "magnitude_pruning", "sparsity": 0.9})
    config.rule.distribution = "global_"
    config.rule.when = ConfigDict({"name": "once", "at": config.get_ref("steps") // 2})
    return config
