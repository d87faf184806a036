"""LeNet-300-100 on MNIST, trained sparse at 90 % with SRigL, a constant fan-in and ablated neurons.

    python -m experiments.main --config configs/mnist_lenet300_srigl.py --workdir runs/srigl

Time: not measured yet. Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs.base import mnist_lenet300

PUBLISHED = "A setting of this project's own: no paper has a figure for it."


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = mnist_lenet300()
    config.rule = ConfigDict({"name": "srigl", "sparsity": 0.9, "period": 100})
    config.rule.end = config.get_ref("steps") * 3 // 4
    config.transform.replace_step = True
    return config
