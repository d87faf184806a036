"""LeNet-300-100 on MNIST, trained sparse at 90 % with SET: random connections grow.

    python -m experiments.main --config configs/mnist_lenet300_set.py --workdir runs/set

Time: about half a minute on two CPU cores. Result: test accuracy 98.27 ± 0.04 %
(mean and standard deviation of the seeds 0, 1, 2: 98.28, 98.23, 98.31), 27,030 of 266,610
parameters kept.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "A setting of this project's own: no paper has a figure for it."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "set_", "sparsity": 0.9, "period": 100})
    config.rule.end = config.get_ref("steps") * 3 // 4
    return config
