"""LeNet-300-100 on MNIST, trained as powers and pruned to 90 % in the end (powerpropagation).

    python -m experiments.main --config configs/mnist_lenet300_powerprop.py \
        --workdir runs/powerprop

Schwarz et al. 2021, arXiv 2110.00296.

Time: about a minute on two CPU cores. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "The paper shows its LeNet-300-100 in figures alone."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "reparameterization.powerprop", "sparsity": 0.9})
    config.rule.alpha = 3.0
    config.transform.name = "reparameterize"
    return config
