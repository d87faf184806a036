"""LeNet-300-100 on MNIST, pruned to 90 % and regenerated little by little (GraNet).

    python -m experiments.main --config configs/mnist_lenet300_granet.py --workdir runs/granet

Time: not measured yet. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "A setting of this project's own: no paper has a figure for it."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "granet", "sparsity": 0.9, "period": 100})
    steps = config.get_ref("steps")
    config.rule.begin, config.rule.end, config.rule.regrow_end = 0, steps // 2, steps
    return config
