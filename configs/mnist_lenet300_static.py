"""LeNet-300-100 on MNIST, a random network of 90 % sparsity that stays as it is.

    python -m experiments.main --config configs/mnist_lenet300_static.py --workdir runs/static

Time: about half a minute on two CPU cores. Result: test accuracy 97.85 ± 0.07 %
(mean and standard deviation of the seeds 0, 1, 2: 97.91, 97.78, 97.87), 27,030 of 266,610
parameters kept.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300
from experiments.published import Published, accuracy_percent

PAPER = "evci2020"


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "static", "sparsity": 0.9, "distribution": "erk"})
    return config


PUBLISHED = (
    Published(
        "LeNet-300-100 static 90 %",
        accuracy_percent,
        "% test accuracy",
        "Figure 4 (CIFAR-10), its order on MNIST",
        claim="worse than RigL, whose mean in its docstring is 98.34 %",
        high=98.34,
        lower_is_better=False,
    ),
)
