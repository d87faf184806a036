"""WRN-22-2 on CIFAR-10, trained sparse with RigL and as a static network: the RigL paper's results.

    python -m experiments.main --config configs/cifar10_wrn22_2_evci2020.py \
        --workdir runs/wrn22_2_evci2020

Evci et al. 2020, arXiv 1911.11134: masks move every 100 steps up to step 75,000, a fraction of 0.3
with cosine decay, ERK with the first layer dense. The paper shows the results in a plot; the
figures are those that the authors give in issue 8 of google-research/rigl. `base.cifar10_wrn22_2`
says how training differs from theirs.

Time: days on a CPU, not run there. Result: not measured.
"""

from ml_collections import ConfigDict

from configs.base import cifar10_wrn22_2, erk_but_first
from experiments.grid import Overrides
from experiments.published import Published, accuracy_percent

PAPER = "evci2020"


def get_config() -> ConfigDict:
    """Returns the configuration of RigL at 90 % sparsity."""
    config = cifar10_wrn22_2()
    config.rule = ConfigDict({"name": "rigl", "sparsity": 0.9, "period": 100})
    config.rule.drop_fraction = 0.3
    config.rule.end = config.get_ref("steps") * 75_000 // 97_656
    config.rule.distribution = erk_but_first()
    config.transform.replace_step = True
    return config


def static(sparsity: float) -> Overrides:
    """Returns what makes the network a static one."""
    rule = {"name": "static", "sparsity": sparsity, "distribution": erk_but_first().to_dict()}
    return {"rule": rule, "transform": {"name": "sparsify"}}


def rigl(sparsity: float) -> Overrides:
    """Returns what gives the network another sparsity."""
    return {"rule.sparsity": sparsity}


def rigl_twice(sparsity: float) -> Overrides:
    """Returns what also makes training, and all its schedules, twice as long."""
    return rigl(sparsity) | {"steps": 2 * 97_656}


TABLE = [
    ("static", static, {0.5: 94.1, 0.8: 92.9, 0.9: 91.5, 0.95: 89.0}),
    ("RigL", rigl, {0.5: 94.2, 0.8: 93.6, 0.9: 92.9, 0.95: 91.8}),
    ("RigL 2x", rigl_twice, {0.5: 94.2, 0.8: 93.8, 0.9: 93.3, 0.95: 92.4}),
]
PUBLISHED = tuple(
    Published(
        f"WRN-22-2 {name} {sparsity:.0%}".replace("%", " %"),
        accuracy_percent,
        "% test accuracy",
        "google-research/rigl issue 8",
        value=accuracy,
        tolerance=0.5,
        lower_is_better=False,
        overrides=overrides(sparsity),
        minutes=2_000,
        not_run="needs a GPU: days on a CPU",
    )
    for name, overrides, accuracies in TABLE
    for sparsity, accuracy in accuracies.items()
)
