"""LeNet-300-100 on MNIST, pruned by soft movement: a penalty decides how much is left.

    python -m experiments.main --config configs/mnist_lenet300_soft_movement.py --workdir runs/soft

Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "A setting of this project's own: no paper has a figure for it."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "soft_movement", "penalty": 1e-6})
    config.transform = ConfigDict({"name": "behind"})
    return config
