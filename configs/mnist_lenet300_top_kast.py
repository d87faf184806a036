"""LeNet-300-100 on MNIST, 90 % masked in the forward and 80 % in the backward pass (Top-KAST).

    python -m experiments.main --config configs/mnist_lenet300_top_kast.py --workdir runs/top_kast

Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "A setting of this project's own: no paper has a figure for it."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "top_kast", "sparsity": 0.9, "backward_sparsity": 0.8})
    config.transform = ConfigDict({"name": "behind"})
    return config
