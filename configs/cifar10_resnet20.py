"""ResNet-20 on CIFAR-10, trained sparse at 90 % with RigL.

    python -m experiments.main --config configs/cifar10_resnet20.py --workdir runs/cifar10_resnet20

Time: hours on two CPU cores (0.2 s a step of 64 images), not run there. Result: not measured.
"""

from ml_collections import ConfigDict

from experiments.config import default

PUBLISHED = "A setting of this project's own: no paper has a figure for it."


def get_config() -> ConfigDict:
    """Returns the configuration: 160 epochs of SGD with momentum, as for the dense network."""
    config = default()
    config.data = ConfigDict({"name": "cifar10", "augment": True})
    config.model = ConfigDict({"name": "resnet20"})
    config.batch_size = 128
    config.steps = 56_000
    config.steps_per_dispatch, config.log_every = 1, 20
    config.eval_every = 700
    config.optimizer = ConfigDict({"name": "sgd", "momentum": 0.9, "nesterov": True})
    config.optimizer.learning_rate = ConfigDict({"name": "cosine_decay_schedule"})
    config.optimizer.learning_rate.init_value = 0.1
    config.optimizer.learning_rate.decay_steps = config.get_ref("steps")
    config.weight_decay = 1e-4
    config.rule = ConfigDict({"name": "rigl", "sparsity": 0.9, "period": 100})
    config.rule.distribution = "erk"
    config.rule.end = config.get_ref("steps") * 3 // 4
    config.transform.replace_step = True
    return config
