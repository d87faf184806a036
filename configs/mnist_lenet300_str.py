"""LeNet-300-100 on MNIST, sparse by learned thresholds (STR).

    python -m experiments.main --config configs/mnist_lenet300_str.py \
        --workdir runs/str

Kusupati et al. 2020, arXiv 2002.03231. The weight decay and where the thresholds begin decide how
sparse the network becomes.

Time: about a minute on two CPU cores. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "The paper has no LeNet-300-100; its networks are ResNet-50 and MobileNetV1."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.optimizer = ConfigDict({"name": "sgd", "momentum": 0.9})
    config.optimizer.learning_rate = ConfigDict({"name": "cosine_decay_schedule"})
    config.optimizer.learning_rate.init_value = 0.1
    config.optimizer.learning_rate.decay_steps = config.get_ref("steps")
    config.weight_decay = 1e-4
    config.rule = ConfigDict({"name": "reparameterization.str_", "initial": -8.0})
    config.transform.name = "reparameterize"
    return config
