"""LeNet-300-100 on MNIST, with gates that harden while they are trained
(continuous sparsification).

    python -m experiments.main --config configs/mnist_lenet300_continuous_sparsification.py \
        --workdir runs/continuous_sparsification

Savarese et al. 2020, arXiv 1912.04427. The penalty is larger than the paper's of 1e-8, whose
networks are trained ten times as long.

Time: about a minute on two CPU cores. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = (
    "The paper has no LeNet-300-100; its networks are VGG, ResNet and a small convolutional one."
)


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "reparameterization.continuous_sparsification"})
    config.rule.strength = 1e-6
    config.transform.name = "reparameterize"
    return config
