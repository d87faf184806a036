"""LeNet-300-100 on MNIST, pruned little by little to 90 % by magnitude (gradual pruning).

    python -m experiments.main --config configs/mnist_lenet300_gmp.py --workdir runs/gmp

Time: about half a minute on two CPU cores. Result: test accuracy 98.30 ± 0.09 %
(mean and standard deviation of the seeds 0, 1, 2: 98.37, 98.33, 98.20), 27,030 of 266,610
parameters kept.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300
from experiments.published import Published, accuracy_percent

PAPER = "zhu2017"


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    steps = config.get_ref("steps")
    config.rule = ConfigDict({"name": "gmp", "sparsity": 0.9, "period": 100})
    config.rule.begin, config.rule.end = steps // 5, steps * 3 // 4
    return config


PUBLISHED = (
    Published(
        "LeNet-300-100 GMP 90 %",
        accuracy_percent,
        "% test accuracy",
        "Abstract: a tenth of the parameters at a minimal loss",
        claim="at most 0.5 points below the dense network, whose mean in its docstring is 98.57 %",
        low=98.57 - 0.5,
        lower_is_better=False,
    ),
)
