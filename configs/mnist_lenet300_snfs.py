"""LeNet-300-100 on MNIST, trained sparse at 90 % with sparse momentum (SNFS).

    python -m experiments.main --config configs/mnist_lenet300_snfs.py --workdir runs/snfs

Time: not measured yet. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = (
    "A setting of this project's own: the paper prunes LeNet-300-100 to 2 to 8 % of its weights "
    "with another optimizer, and shows the errors as a picture."
)


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    # An update after each epoch, as in the paper.
    config.rule = ConfigDict({"name": "snfs", "sparsity": 0.9, "period": 429})
    config.rule.end = config.get_ref("steps")
    return config
