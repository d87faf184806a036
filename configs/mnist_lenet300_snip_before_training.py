"""LeNet-300-100 on MNIST, pruned to 90 % before training by SNIP's scores of five batches, which
other initial weights than the trained ones are given.

    python -m experiments.main --config configs/mnist_lenet300_snip_before_training.py \
        --workdir runs/snip_before_training

Lee et al. 2019, arXiv 1810.02340, whose code draws new weights after pruning.

Time: about half a minute on two CPU cores. Result: not measured yet.
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
    config.rule = ConfigDict({"name": "at_initialization.snip", "sparsity": 0.9, "batches": 5})
    config.rule.ablation = "reinitialized"
    return config
