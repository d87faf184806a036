"""LeNet-300-100 on MNIST, 2:4 sparse in each forward pass (SR-STE).

    python -m experiments.main --config configs/mnist_lenet300_sr_ste.py --workdir runs/sr_ste

Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "A setting of this project's own: no paper has a figure for it."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    # Of every four inputs of a neuron two.
    config.rule = ConfigDict({"name": "sr_ste", "sparsity": 0.5})
    config.rule.structure = ConfigDict({"name": "nm", "n": 2, "m": 4})
    config.transform = ConfigDict({"name": "behind"})
    return config
