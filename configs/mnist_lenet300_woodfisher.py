"""LeNet-300-100 on MNIST, pruned to 90 % by the block-wise optimal brain surgeon.

    python -m experiments.main --config configs/mnist_lenet300_woodfisher.py --workdir runs/obs

Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "A setting of this project's own: no paper has a figure for it."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    steps = config.get_ref("steps")
    config.rule = ConfigDict({"name": "woodfisher", "sparsity": 0.9, "period": 500})
    config.rule.begin, config.rule.end = steps // 5, steps * 3 // 4
    config.rule.samples = 100
    return config
