"""LeNet-300-100 on MNIST, trained sparse at 90 % with Cannistraci-Hebb training (CHT).

    python -m experiments.main --config configs/mnist_lenet300_cht.py --workdir runs/cht

Time: not measured yet. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "A setting of this project's own: no paper has a figure for it."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    # An update takes seconds; by default there is one every 400 steps, about an epoch.
    config.rule = ConfigDict({"name": "cht", "sparsity": 0.9})
    return config
