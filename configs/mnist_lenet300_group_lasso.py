"""LeNet-300-100 on MNIST, with a group lasso on the inputs of each neuron.

    python -m experiments.main --config configs/mnist_lenet300_group_lasso.py --workdir runs/group

Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "A setting of this project's own: no paper has a figure for it."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.optimizer.penalty = ConfigDict({"name": "group_lasso", "coefficient": 1e-5})
    config.optimizer.penalty.structure = ConfigDict({"name": "channel"})
    return config
