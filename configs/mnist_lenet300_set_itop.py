"""LeNet-300-100 on MNIST, trained sparse at 90 % with SET-ITOP, in-time over-parameterization.

    python -m experiments.main --config configs/mnist_lenet300_set_itop.py --workdir runs/set_itop

Time: not measured yet. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "A setting of this project's own: no paper has a figure for it."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    # An update after each epoch, and until the end: the paper moves masks seldom and much.
    config.rule = ConfigDict({"name": "set_itop", "sparsity": 0.9, "period": 429})
    config.rule.end = config.get_ref("steps")
    return config
