"""LeNet-300-100 on MNIST, trained dense to bear being pruned to 90 % (CrAM).

    python -m experiments.main --config configs/mnist_lenet300_cram.py --workdir runs/cram

Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "A setting of this project's own: no paper has a figure for it."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "cram", "sparsity": 0.9})
    config.transform = ConfigDict({"name": "behind"})
    return config
