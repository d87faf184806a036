"""LeNet-300-100 on MNIST, pruned to a twelfth and retrained (Han et al. 2015, table 1).

    python -m experiments.main --config configs/mnist_lenet300_han2015.py --workdir runs/han2015

The network is trained densely, then loses its smallest weights in four rounds, each followed by
retraining at a tenth of the learning rate. In the end the layers keep 8, 9 and 26 % of their
weights, 21,776 of 266,200, the paper's 22 K. (The paper sets thresholds as multiples of a layer's
standard deviation; for every share of a layer's weights there is one such multiple.) The dense
reference takes the same steps with the same learning rates. The table's networks are trained
without dropout, which the paper does not mention for LeNet; a further row has it on the hidden
units, at a rate of 0.5 before the first pruning and scaled by the root of the kept share after.

Time: about 1 minute on one CPU core. Result: a test error of 1.46 ± 0.04 %; that of the dense
reference is 1.36 ± 0.09 % (mean and standard deviation of the seeds 0, 1, 2).
"""

from ml_collections import ConfigDict

from configs.han2015 import pruned_in_rounds
from experiments.published import Published, error_percent, weights_kept_thousands

PAPER = "han2015"
PUBLISHED = (
    Published(
        row="LeNet-300-100 reference",
        measure=error_percent,
        unit="% test error",
        source="Table 1",
        value=1.64,
        tolerance=0.3,
        overrides={"rule": None},
    ),
    Published(
        row="LeNet-300-100 pruned 12x",
        measure=error_percent,
        unit="% test error",
        source="Table 1",
        value=1.59,
        tolerance=0.3,
    ),
    Published(
        row="LeNet-300-100 pruned 12x, weights kept",
        measure=weights_kept_thousands,
        unit="thousands of weights",
        source="Table 1; the layers' shares from memory",
        value=22,
        tolerance=0,
    ),
    Published(
        row="LeNet-300-100 pruned 12x, with dropout",
        measure=error_percent,
        unit="% test error",
        source="Section 3.2; without a figure for LeNet",
        claim="dropout at a rate that shrinks with the connections serves a pruned network as well",
        high=1.94,  # the reference and 0.3
        overrides={"model.dropout": 0.5},
    ),
)


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = pruned_in_rounds(
        dense=9_000,
        period=3_000,
        rounds=4,
        steps=27_000,
        kept={"Dense_0/*": 0.08, "Dense_1/*": 0.09, "Dense_2/*": 0.26},
    )
    config.batch_size = 60
    return config
