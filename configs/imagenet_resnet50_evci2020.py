"""ResNet-50 at the size of ImageNet, 80 % sparse by RigL and the methods it is compared with.

    python -m experiments.main --config configs/imagenet_resnet50_evci2020.py \
        --workdir runs/imagenet_resnet50 --config.data.train=8 --config.batch_size=2 \
        --config.steps=2

The images are generated at random, in ImageNet's shape: reading ImageNet is not part of this
project, so the configuration shows that everything fits, and measures nothing. The figures are
those in the README of google-research/jaxpruner (arXiv 2304.14082), and the hyperparameters those
of its ResNet-50: 100 epochs of 4,096 images, a uniform sparsity with the first layer dense, masks
that move every 1,000 steps, pruning from step 10,000 to 25,000. There the last layer's biases begin
at -10, and here at 0.

Time: not run in full. Result: not measured.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.config import default
from experiments.grid import Overrides
from experiments.published import Published, accuracy_percent

PAPER = "evci2020"
UNIFORM = {"name": "uniform", "dense": ("stem/*",)}
GLOBAL = {"name": "custom", "sparsities": {"stem/kernel": 0.0}, "base": "global_"}


def get_config() -> ConfigDict:
    """Returns the configuration of RigL."""
    config = default()
    shape = {"height": 224, "width": 224, "channels": 3, "classes": 1000}
    config.data = ConfigDict({"name": "generated", "train": 4_096, **shape})
    config.model = ConfigDict({"name": "resnet50"})
    config.batch_size = 4_096
    config.steps = 31_200
    config.steps_per_dispatch, config.log_every = 1, 10
    config.eval_every = 1_000
    steps = config.get_ref("steps")
    config.optimizer = ConfigDict({"name": "sgd", "momentum": 0.9})
    config.optimizer.learning_rate = ConfigDict({"name": "warmup_cosine_decay_schedule"})
    config.optimizer.learning_rate.init_value = 0.0
    config.optimizer.learning_rate.peak_value = 1.6
    config.optimizer.learning_rate.warmup_steps = steps // 20
    config.optimizer.learning_rate.decay_steps = steps
    config.weight_decay = 1e-4
    config.rule = ConfigDict({"name": "rigl", "sparsity": 0.8, "period": 1_000})
    config.rule.drop_fraction = 0.1
    config.rule.end = steps * 25 // 31
    config.rule.distribution = ConfigDict(UNIFORM)
    config.transform.replace_step = True
    return config


def rule(name: str, transform: str = "sparsify", **arguments: Any) -> Overrides:
    """Returns what gives the network another mask rule."""
    described = {"name": name, "sparsity": 0.8, "distribution": UNIFORM, **arguments}
    return {"rule": described, "transform": {"name": transform}}


GRADUAL: dict[str, Any] = {"begin": 10_000, "end": 25_000, "period": 1_000}
ROWS: list[tuple[str, float, Overrides]] = [
    ("dense", 76.67, {"rule": None}),
    ("random, gradual", 70.19, rule("gmp", score="random", **GRADUAL)),
    ("magnitude, gradual", 75.53, rule("gmp", **GRADUAL)),
    ("saliency, gradual", 74.93, rule("gmp", score="saliency", **GRADUAL)),
    ("global magnitude, gradual", 75.49, rule("gmp", **(GRADUAL | {"distribution": GLOBAL}))),
    ("straight-through", 73.54, rule("ste_magnitude", "chain")),
    ("static", 71.34, rule("static")),
    ("SET", 74.57, rule("set_", period=1_000, end=25_000, drop_fraction=0.1)),
    ("RigL", 74.75, {}),
]
PUBLISHED = tuple(
    Published(
        f"ResNet-50 {name}",
        accuracy_percent,
        "% test accuracy",
        "README of google-research/jaxpruner",
        value=accuracy,
        tolerance=0.5,
        lower_is_better=False,
        overrides=overrides,
        minutes=100_000,
        not_run="needs ImageNet and a GPU",
    )
    for name, accuracy, overrides in ROWS
)
