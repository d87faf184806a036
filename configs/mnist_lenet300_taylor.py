"""LeNet-300-100 on MNIST, pruned little by little to 90 % by the first-order change of the loss.

    python -m experiments.main --config configs/mnist_lenet300_taylor.py --workdir runs/taylor

Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "A setting of this project's own: no paper has a figure for it."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    steps = config.get_ref("steps")
    config.rule = ConfigDict({"name": "taylor", "sparsity": 0.9, "period": 100})
    config.rule.begin, config.rule.end = steps // 5, steps * 3 // 4
    return config
