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


def cifar10_wrn22_2() -> ConfigDict:
    """Returns the dense WRN-22-2 on CIFAR-10, as the RigL paper trains it (arXiv 1911.11134).

    SGD with Nesterov momentum, 97,656 steps of 128 images, the rate divided by five every 30,000.
    As the authors' code has it (google-research/rigl, rigl/cifar_resnet), with three differences:
    no dropout, an L2 term for all parameters and not for the kernels alone, and 5,000 of the 50,000
    images held out, so that the steps make 278 epochs and not 250.
    """
    config = default()
    config.data = ConfigDict({"name": "cifar10", "augment": True})
    config.model = ConfigDict({"name": "wrn22_2"})
    config.batch_size = 128
    config.steps = 97_656
    config.steps_per_dispatch, config.log_every = 1, 50
    config.eval_every = 1_000
    config.optimizer = ConfigDict({"name": "sgd", "momentum": 0.9, "nesterov": True})
    config.optimizer.learning_rate = ConfigDict(
        {"name": "exponential_decay", "init_value": 0.1, "decay_rate": 0.2, "staircase": True}
    )
    config.optimizer.learning_rate.transition_steps = config.get_ref("steps") * 30_000 // 97_656
    config.weight_decay = 5e-4
    return config


def erk_but_first() -> ConfigDict:
    """Returns the distribution ERK among all layers but the first, which stays dense."""
    sparsities = {"Conv_0/kernel": 0.0}
    return ConfigDict({"name": "custom", "sparsities": sparsities, "base": "erk"})
