"""LeNet-300-100 on MNIST, trained sparse at 90 % and dense in turn (AC/DC), sparse at the end.

    python -m experiments.main --config configs/mnist_lenet300_acdc.py --workdir runs/acdc

Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "A setting of this project's own: no paper has a figure for it."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    steps = config.get_ref("steps")
    # The paper's shares of its 100 epochs: a tenth, a twentieth and, at the end, 15 hundredths.
    config.rule = ConfigDict({"name": "acdc", "sparsity": 0.9})
    config.rule.begin, config.rule.end = steps // 10, steps * 17 // 20
    config.rule.period = steps // 20
    return config
