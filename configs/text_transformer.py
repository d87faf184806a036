"""A character transformer on Shakespeare, pruned after training by four methods, not retrained.

    python -m experiments.main --config configs/text_transformer.py --workdir runs/text

0.8 million weights in four blocks, trained densely on batches of 8 texts of 128 characters; then
pruned by magnitude, Wanda, DSnoT (from Wanda's masks) and SparseGPT, each from the dense network
again, with 128 texts for calibration. Embeddings and the last layer stay dense, as in the papers.

Time: about 7 minutes on one CPU core. Result, perplexity on the test text (dense: 6.90), seed 0:

    method      50 %    60 %    70 %    2:4
    magnitude   7.44    8.12    9.57   8.30
    Wanda       7.43    8.22   10.73   8.18
    DSnoT       7.51    8.74   13.33   8.40
    SparseGPT   7.06    7.35    8.64   7.25

The published order, SparseGPT before Wanda before magnitude, holds at 50 % and 2:4, if barely for
the latter two. Above, this small network is better served by magnitudes, and DSnoT makes Wanda's
masks worse; why has not been examined.
"""

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure
from ml_collections import ConfigDict

from experiments.config import default
from experiments.pruning_figures import against_sparsity
from experiments.published import Published
from experiments.runs import Run

PAPER = "sun2023"


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = default()
    config.data = ConfigDict({"name": "tinyshakespeare", "length": 128, "validation": 400})
    config.model = ConfigDict({"name": "text_transformer", "layers": 4, "width": 128, "heads": 4})
    config.batch_size = 8
    config.steps = 1_200
    config.steps_per_dispatch, config.log_every, config.eval_every = 1, 50, 300
    rate = ConfigDict({"name": "warmup_cosine_decay_schedule", "init_value": 0.0})
    steps = config.get_ref("steps")
    rate.peak_value, rate.warmup_steps, rate.decay_steps = 3e-3, steps // 12, steps
    config.optimizer = ConfigDict({"name": "adam", "learning_rate": rate, "b2": 0.99})
    config.procedure = ConfigDict({"name": "post_training"})
    config.procedure.sparsities, config.procedure.patterns = (0.5, 0.6, 0.7), ("2:4",)
    return config


def _below(method: str, other: str, target: str) -> Callable[[dict[str, Any]], float]:
    """By how many percent a method's perplexity is below another's."""

    def measure(summary: dict[str, Any]) -> float:
        found = {
            row["method"]: row["perplexity"]
            for row in summary["post_training"]
            if row["target"] == target
        }
        return float(100 * (1 - found[method] / found[other]))

    return measure


def _claim(method: str, other: str, target: str, source: str) -> Published:
    names = {"magnitude": "magnitude", "wanda": "Wanda", "dsnot": "DSnoT", "sparsegpt": "SparseGPT"}
    return Published(
        f"transformer {target}, {names[method]} against {names[other]}",
        _below(method, other, target),
        f"% of perplexity below {names[other]}'s",
        source,
        claim=f"perplexity not above {names[other]}'s",
        low=0.0,
        lower_is_better=False,
        minutes=7.0,
    )


# The papers measure LLaMA: in Sun et al., the 7B model on WikiText has a perplexity of 5.68 dense;
# at 50 % 17.29 by magnitude, 7.26 by Wanda and 7.22 by SparseGPT; at 2:4 42.13, 11.53 and 11.00
# (from memory). Of so small a network only the order can be expected.
PUBLISHED = (
    *(
        _claim(method, other, target, "Table 3, from memory")
        for target in ("50 %", "2:4")
        for method, other in (("wanda", "magnitude"), ("sparsegpt", "wanda"))
    ),
    *(
        _claim("dsnot", "wanda", target, "Zhang et al. 2023, Table 1, from memory")
        for target in ("60 %", "70 %")
    ),
)


def _figure(runs: list[Run]) -> Figure:
    series: dict[str, dict[float, list[float]]] = {}
    for run in runs:
        for row in (run.summary or {})["post_training"]:
            if row["target"].endswith("%"):
                values = series.setdefault(row["method"], {})
                values.setdefault(round(row["sparsity"], 2), []).append(row["perplexity"])
    return against_sparsity(
        "Pruned after training: a transformer on Shakespeare",
        "test perplexity a character, not retrained",
        series,
    )


FIGURES = {"text_transformer": _figure}
