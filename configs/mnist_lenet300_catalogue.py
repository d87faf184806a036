"""Every method on LeNet-300-100 and MNIST, at four sparsities, for the same 5 epochs each.

    python -m experiments.sweep --config configs/mnist_lenet300_catalogue.py \
        --workdir runs/catalogue --results RESULTS.md

prints the table of all methods at 90, 95, 98 and 99 %, three seeds each, and goes on where it was
stopped. Each method is set as in its own file in configs/, with the sparsity and the number of
steps replaced; what its schedules take from the number of steps follows. Methods that are not asked
for a sparsity but for a penalty have one setting, and SR-STE is 2:4. The dense network alone:

    python -m experiments.main --config configs/mnist_lenet300_catalogue.py --workdir runs/dense5

Time: 156 minutes of training in 417 runs on two CPU cores. Result: in RESULTS.md. At 98 % the
straight-through estimator, GraNet, CrAM, movement pruning and OBD come within 1.6 points of the
dense network's 98.29 %.

Static random masks, ERK, reach 92.94 ± 0.22 % there. Some methods do worse, and this is why:

  - Random pruning, GMP with its three schedules, MEST, CHT, DSR, DeepR and powerprop have, as in
    their files, one sparsity for all layers, which leaves 20 of the last layer's 1,000 weights, two
    for each class, where ERK leaves 367. With ERK in its place seed 0 gives, at 98 %, GMP 96.26,
    CHT 93.41, DSR 93.27, MEST 93.20, random pruning 93.15, DeepR 83.50 and powerprop 46.37 %: that
    was all with the first five. DeepR has few steps for a random walk, and powerprop prunes at the
    end and trains no further.
  - Magnitude at initialization chooses among all layers, and the first has the smallest weights,
    drawn with a variance of 1 / inputs: it loses them all, and the network answers with one class.
  - GraSP leaves the first layer 1,665 weights where static masks leave 3,621: by 0.65 points worse.
    Taylor pruning lies within the seeds' deviation of static masks.
"""

import importlib

from ml_collections import ConfigDict

from configs.base import mnist_lenet300
from experiments.grid import Overrides, chain, product, seeds

PUBLISHED = "none: each paper has its own network and data"

SPARSITIES = (0.9, 0.95, 0.98, 0.99)
# The files of the methods that reach a sparsity that they are asked for, and of the others.
METHODS = (
    "random_before_training",
    "magnitude_before_training",
    "snip",
    "snip_before_training",
    "iterative_snip",
    "force",
    "grasp",
    "synflow",
    "magnitude",
    "gmp",
    "gmp_cyclic",
    "gmp_exponential",
    "taylor",
    "obd",
    "woodfisher",
    "acdc",
    "movement",
    "cram",
    "static",
    "set",
    "set_itop",
    "deep_r",
    "dsr",
    "snfs",
    "mest",
    "rigl",
    "rigl_itop",
    "granet",
    "srigl",
    "cht",
    "ste",
    "top_kast",
    "powerprop",
)
AS_THEY_COME = (
    "sr_ste",
    "soft_movement",
    "soft_threshold",
    "str",
    "continuous_sparsification",
    "l0",
)


def get_config() -> ConfigDict:
    """Returns the configuration of the dense network."""
    config = mnist_lenet300()
    config.steps = 2_145
    return config


def sweep() -> list[Overrides]:
    """Returns the runs: dense, each method at each sparsity, and the others; three seeds each."""
    asked = [_method(name, sparsity) for name in METHODS for sparsity in SPARSITIES]
    return product(chain([{}], asked, [_method(name) for name in AS_THEY_COME]), seeds(3))


def _method(name: str, sparsity: float | None = None) -> Overrides:
    """What a method's own file changes, for this number of steps and at this sparsity."""
    config = importlib.import_module(f"configs.mnist_lenet300_{name}").get_config()
    config.steps = get_config().steps
    if sparsity is not None:
        rule = config.rule
        if isinstance(rule.sparsity, ConfigDict):
            rule.sparsity.final = sparsity
        else:
            rule.sparsity = sparsity
        if "backward_sparsity" in rule:  # twice as many weights learn as take part
            rule.backward_sparsity = 1 - 2 * (1 - sparsity)
    own, base = config.to_dict(), get_config().to_dict()
    return {key: value for key, value in own.items() if value != base[key]}
