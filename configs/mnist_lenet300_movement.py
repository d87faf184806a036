"""LeNet-300-100 on MNIST, pruned little by little to 90 % by movement.

    python -m experiments.main --config configs/mnist_lenet300_movement.py --workdir runs/movement

Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "A setting of this project's own: no paper has a figure for it."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    steps = config.get_ref("steps")
    config.rule = ConfigDict({"name": "movement"})
    config.rule.sparsity = ConfigDict({"name": "cubic", "final": 0.9})
    config.rule.sparsity.begin, config.rule.sparsity.end = steps // 5, steps * 3 // 4
    config.transform = ConfigDict({"name": "behind"})
    return config
