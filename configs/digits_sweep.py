"""Three ways to a sparse network, and the dense one, on the embedded digits: a sweep of 30 runs.

    python -m experiments.sweep --config configs/digits_sweep.py --workdir runs/digits
    python -m experiments.report runs/digits

Nothing is downloaded. Time: about two minutes on two CPU cores. The dense network alone:

    python -m experiments.main --config configs/digits_sweep.py --workdir runs/digits_dense
"""

from ml_collections import ConfigDict

from experiments.config import default
from experiments.grid import Overrides, chain, over, product, seeds

PUBLISHED = "none: scikit-learn's digits are for trying things out"


def get_config() -> ConfigDict:
    """Returns the dense network."""
    config = default()
    config.optimizer = ConfigDict({"name": "adam"})
    config.optimizer.learning_rate = ConfigDict({"name": "cosine_decay_schedule"})
    config.optimizer.learning_rate.init_value = 2e-3
    config.optimizer.learning_rate.decay_steps = config.get_ref("steps")
    return config


def sweep() -> list[Overrides]:
    """Returns the runs: static, GMP and RigL at three sparsities, and dense; three seeds each."""
    rules = [
        {"name": "static", "sparsity": 0.9, "distribution": "erk"},
        {"name": "gmp", "sparsity": 0.9, "begin": 60, "end": 450, "period": 10},
        {"name": "rigl", "sparsity": 0.9, "distribution": "erk", "period": 10, "end": 450},
    ]
    sparsities = over("rule.sparsity", [0.9, 0.95, 0.98])
    return product(chain([{}], product(over("rule", rules), sparsities)), seeds(3))
