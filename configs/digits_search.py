"""A search on the embedded digits: how much to prune, where, when, and how fast to learn.

    python -m experiments.main --config configs/digits_search.py --workdir runs/dense
    python -m experiments.search --config configs/digits_search.py --workdir runs/search \
        --trials 40 --objective accuracy --most_flops 0.1
    python -m experiments.search --config configs/digits_search.py --workdir runs/front \
        --trials 40 --objective pareto --cost bytes
    python -m experiments.report runs/front

The first trains the dense network, from which the trials start. Nothing is downloaded. Time: some
seconds for each trial.
"""

from ml_collections import ConfigDict

from experiments.config import default
from experiments.space import Space, choice, uniform

PUBLISHED = "none: scikit-learn's digits are for trying things out"


def get_config() -> ConfigDict:
    """Returns the dense network."""
    config = default()
    config.optimizer = ConfigDict({"name": "adam"})
    config.optimizer.learning_rate = ConfigDict({"name": "cosine_decay_schedule"})
    config.optimizer.learning_rate.init_value = 2e-3
    config.optimizer.learning_rate.decay_steps = config.get_ref("steps")
    return config


def search() -> Space:
    """Returns what may be chosen."""
    gradually = {"name": "gmp", "begin": 60, "end": 450, "period": 10}
    at_once = {"name": "magnitude_pruning", "when": {"name": "once", "at": 300}}
    moving = {"name": "rigl", "end": 450, "period": 10}
    return {
        "rule": choice(gradually, at_once, moving),
        "rule.sparsity": uniform(0.7, 0.99),
        "rule.distribution": choice("uniform", "erk"),
        "optimizer.learning_rate.init_value": uniform(5e-4, 1e-2, log=True),
    }
