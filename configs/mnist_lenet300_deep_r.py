"""LeNet-300-100 on MNIST, trained sparse at 90 % with DeepR, deep rewiring.

    python -m experiments.main --config configs/mnist_lenet300_deep_r.py --workdir runs/deep_r

Time: not measured yet. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = (
    "A setting of this project's own: the paper shows the accuracies of this network as a picture."
)


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "deep_r", "sparsity": 0.9, "l1": 1e-5})
    # The random walk is that of gradient descent without momentum, whose rate the rule must know.
    config.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.05})
    config.rule.learning_rate, config.rule.temperature = 0.05, 1e-9
    return config
