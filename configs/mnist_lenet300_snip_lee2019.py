"""LeNet-300-100 on MNIST, pruned before training by SNIP: the paper's table 1.

    python -m experiments.main --config configs/mnist_lenet300_snip_lee2019.py \
        --workdir runs/snip_lee2019

Lee et al. 2019, arXiv 1810.02340. As in the paper: SGD of 0.1 with momentum 0.9 and batches of 100,
a weight decay of 5e-4 on all parameters, the scores from one batch, and initial weights of variance
1 / fan-in. The rate falls to a tenth every 12,000 of 36,000 steps; the paper lets it fall every
25,000 and does not say for how long it trains. Biases are not pruned here; they compete in the
authors' code.

Time: 1.7 minutes on one CPU core. Result: at 98 % a test error of 2.96 ± 0.16 % (mean and standard
deviation of the seeds 0, 1, 2: 2.81, 2.94, 3.13), where the paper has 2.4 %. What does not close
the gap, seed 0: 75,000 steps with the paper's decays (2.85 %), Glorot's initial weights (3.06 %),
pixels from 0 to 1 in place of standardised ones (3.17 %), a weight decay of 1e-4 (3.10 %) or 2e-4
(2.70 %); new weights after pruning as in the authors' code (2.73, 3.04, 2.90 %), the same with a
weight decay of 2e-4 (2.90, 3.03, 3.06 %), with biases that compete (2.84 %). The masks of one batch
leave 284 to 297 of the 784 pixels connected, and share no more connections between two seeds than
chance gives.
"""

from ml_collections import ConfigDict

from experiments.config import default
from experiments.grid import Overrides
from experiments.published import Published, error_percent

PAPER = "lee2019"


def get_config() -> ConfigDict:
    """Returns the configuration of 98 % sparsity."""
    config = default()
    config.data = ConfigDict({"name": "mnist"})
    config.batch_size = 100
    config.steps = 36_000
    config.log_every = 100
    config.eval_every = 1_000
    config.optimizer = ConfigDict({"name": "sgd", "momentum": 0.9})
    config.optimizer.learning_rate = ConfigDict(
        {"name": "exponential_decay", "init_value": 0.1, "decay_rate": 0.1, "staircase": True}
    )
    config.optimizer.learning_rate.transition_steps = config.get_ref("steps") // 3
    config.weight_decay = 5e-4
    config.rule = ConfigDict({"name": "snip", "sparsity": 0.98})
    config.transform.replace_step = True
    return config


ROWS: list[tuple[str, float, Overrides]] = [
    ("dense", 1.7, {"rule": None}),
    ("SNIP 95 %", 1.6, {"rule.sparsity": 0.95}),
    ("SNIP 98 %", 2.4, {}),
]
PUBLISHED = tuple(
    Published(
        f"LeNet-300-100 {name}",
        error_percent,
        "% test error",
        "Table 1",
        value=error,
        tolerance=0.4,
        overrides=overrides,
        minutes=1.5,
    )
    for name, error, overrides in ROWS
)
