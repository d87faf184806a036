"""WRN-22-2 on CIFAR-10, pruned little by little while it trains, as the RigL paper prunes it.

    python -m experiments.main --config configs/cifar10_wrn22_2_gmp_zhu2017.py \
        --workdir runs/wrn22_2_gmp

The method is that of Zhu & Gupta 2017, arXiv 1710.01878: prunings from step 20,000 to 75,000 every
1,000 steps, here with ERK and the first layer dense. The figures are those that the authors of RigL
(arXiv 1911.11134) give in issue 8 of google-research/rigl. `base.cifar10_wrn22_2` says how training
differs from theirs.

Time: days on a CPU, not run there. Result: not measured.
"""

from ml_collections import ConfigDict

from configs.base import cifar10_wrn22_2, erk_but_first
from experiments.published import Published, accuracy_percent

PAPER = "zhu2017"


def get_config() -> ConfigDict:
    """Returns the configuration of 90 % sparsity."""
    config = cifar10_wrn22_2()
    steps = config.get_ref("steps")
    config.rule = ConfigDict({"name": "gmp", "sparsity": 0.9, "period": 1_000})
    config.rule.begin, config.rule.end = steps * 20_000 // 97_656, steps * 75_000 // 97_656
    config.rule.distribution = erk_but_first()
    return config


PUBLISHED = tuple(
    Published(
        f"WRN-22-2 GMP {percent} %",
        accuracy_percent,
        "% test accuracy",
        "google-research/rigl issue 8",
        value=accuracy,
        tolerance=0.5,
        lower_is_better=False,
        overrides={"rule.sparsity": percent / 100},
        minutes=2_000,
        not_run="needs a GPU: days on a CPU",
    )
    for percent, accuracy in {50: 94.0, 80: 93.6, 90: 93.3, 95: 92.3}.items()
)
