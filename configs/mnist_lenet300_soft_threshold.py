"""LeNet-300-100 on MNIST, with weights shrunk to zero by the proximal step of the lasso.

    python -m experiments.main --config configs/mnist_lenet300_soft_threshold.py --workdir runs/soft

Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "A setting of this project's own: no paper has a figure for it."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate.init_value = 0.1
    config.rule = ConfigDict({"name": "soft_threshold", "coefficient": 1e-4})
    config.rule.learning_rate = config.optimizer.learning_rate
    config.transform = ConfigDict({"name": "chain"})
    return config
