"""LeNet-300-100 on MNIST, pruned to 90 % before training by the sensitivity of the loss (SNIP).

    python -m experiments.main --config configs/mnist_lenet300_snip.py --workdir runs/snip

Time: about half a minute on two CPU cores. Result: test accuracy 98.19 ± 0.08 %
(mean and standard deviation of the seeds 0, 1, 2: 98.27, 98.11, 98.18), 27,030 of 266,610
parameters kept.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = (
    "A setting of this project's own: no paper has a figure for it. "
    "mnist_lenet300_snip_lee2019.py has the paper's."
)


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "snip", "sparsity": 0.9})
    config.transform.replace_step = True
    return config
