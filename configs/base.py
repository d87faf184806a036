"""What several experiments share."""

from ml_collections import ConfigDict

from experiments.config import default


def mnist_lenet300() -> ConfigDict:
    """Returns the dense LeNet-300-100 on MNIST: Adam with a cosine decay, 40 epochs."""
    config = default()
    config.data = ConfigDict({"name": "mnist"})
    config.steps = 17_160
    config.log_every = 100
    config.eval_every = 500
    config.optimizer = ConfigDict({"name": "adam"})
    config.optimizer.learning_rate = ConfigDict({"name": "cosine_decay_schedule"})
    config.optimizer.learning_rate.init_value = 2e-3
    config.optimizer.learning_rate.decay_steps = config.get_ref("steps")
    return config
