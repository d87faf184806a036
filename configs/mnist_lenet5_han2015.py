"""Caffe's LeNet-5 on MNIST, pruned to a twelfth and retrained (Han et al. 2015, table 1).

    python -m experiments.main --config configs/mnist_lenet5_han2015.py --workdir runs/lenet5

As in `configs/mnist_lenet300_han2015.py`: dense training, then four rounds of pruning and
retraining at a tenth of the learning rate with L2. The layers keep 66, 12, 8 and 19 % of their
weights, 36,280 of 430,500, the paper's 36 K. The dense reference takes the same steps with the same
learning rates.

Time: about 7 minutes on one CPU core. Result: a test error of 0.97 ± 0.07 % (mean and standard
deviation of the seeds 0, 1, 2: 1.04, 0.97, 0.90), where the dense reference has 0.76 ± 0.05 %.
"""

from ml_collections import ConfigDict

from configs.han2015 import pruned_in_rounds
from experiments.published import Published, error_percent, weights_kept_thousands

PAPER = "han2015"
PUBLISHED = (
    Published(
        row="LeNet-5 reference",
        measure=error_percent,
        unit="% test error",
        source="Table 1",
        value=0.80,
        tolerance=0.3,
        overrides={"rule": None},
        minutes=7,
    ),
    Published(
        row="LeNet-5 pruned 12x",
        measure=error_percent,
        unit="% test error",
        source="Table 1",
        value=0.77,
        tolerance=0.3,
        minutes=7,
    ),
    Published(
        row="LeNet-5 pruned 12x, weights kept",
        measure=weights_kept_thousands,
        unit="thousands of weights",
        source="Table 1; the layers' shares from memory",
        value=36,
        tolerance=0,
        minutes=7,
    ),
)


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = pruned_in_rounds(
        dense=4_000,
        period=700,
        rounds=4,
        steps=9_000,
        kept={"Conv_0/*": 0.66, "Conv_1/*": 0.12, "Dense_0/*": 0.08, "Dense_1/*": 0.19},
    )
    config.model = ConfigDict({"name": "lenet5_caffe"})
    config.optimizer.learning_rate.init_value = 0.02
    config.batch_size = 64
    config.steps_per_dispatch = 1
    config.eval_every = 500
    return config
