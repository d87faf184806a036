"""What a report shows, as plain data: runs, and what became of the settings that they repeat.

A *method* is a rule with all that runs differ in but the seed and how much is pruned; a *setting*
is a method at one such amount, and its runs differ in the seed alone.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from experiments import records, runs
from experiments.errors import UserError

CURVE_POINTS = 80
"""Most points of a curve; more are thinned out."""
ERROR_CHARACTERS = 10_000
"""Most characters of a traceback, its end."""

# The keys that say how much is pruned: one curve of accuracy against sparsity runs over them.
_AMOUNTS = ("rule.sparsity", "rule.threshold", "rule.quality")
_RESULTS = ("validation", "test", "sparsity", "kept", "flops", "bytes", "seconds")


class Entry(NamedTuple):
    """A run, or a stage of a procedure in stages.

    Attributes:
      name: its folder, relative to the report's.
      run: what lies there; of a stage with the configuration of its procedure.
      kind: the stage's kind, None for an ordinary run.
      amount: how much is pruned, by the configuration or by the name of the stage.
    """

    name: str
    run: runs.Run
    kind: str | None
    amount: tuple[Any, ...]


def collect(root: Path) -> dict[str, Any]:
    """Returns everything that the report of a folder shows.

    Args:
      root: a folder with runs below it.

    Returns:
      What `json` can write, without NaN and infinity:
      ``title``; ``states``, how many runs are finished, failed and started; ``differing``, the keys
      in which configurations differ, and ``shared``, the others with their values; ``methods`` and
      ``levels``, names; ``runs``, a row of the table each; ``settings``, with statistics over their
      runs (`mean`, sample standard deviation `sd`, number `n`) and curves (see `_curves`).

    Raises:
      UserError: if there is no run, or a file of one cannot be read.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give one that holds runs")
    entries = [entry for run in runs.find(root) for entry in _entries(root, run)]
    if not entries:
        raise UserError(f"{root}: there is no run in it, no folder with a config.json; train first")
    flats = [records.flat(entry.run.config) for entry in entries]
    unequal = runs.differing([entry.run.config for entry in entries])
    # Without those that are a sub-configuration in some runs, such as an absent rule.
    differing = [key for key in unequal if not any(k.startswith(f"{key}.") for k in unequal)]
    shared = {key: value for key, value in flats[0].items() if key not in unequal}
    methods = _methods(entries, flats, differing)
    names = sorted(set(methods), key=lambda name: (name != "dense", name))
    rows = [_row(entry, flat, differing) for entry, flat in zip(entries, flats, strict=True)]

    groups: dict[tuple[int, tuple[Any, ...]], list[int]] = {}
    for i, (entry, row) in enumerate(zip(entries, rows, strict=True)):
        row["method"] = names.index(methods[i])
        groups.setdefault((row["method"], entry.amount), []).append(i)
    settings = []
    for (number, amount), members in groups.items():
        setting = _setting([entries[i].run for i in members], [rows[i] for i in members])
        dense = names[number] == "dense"
        settings.append(setting | {"method": number, "level": _level(dense, amount, setting)})
        for i in members:
            rows[i]["setting"] = settings[-1]
    settings.sort(key=_rank)
    rows.sort(key=lambda row: (_rank(row.pop("setting")), _natural(str(row["config"].get("seed")))))
    states = pd.Series([entry.run.state for entry in entries]).value_counts()
    ranked = sorted(settings, key=lambda s: (s["sparsity"] is None, s["sparsity"]))
    return {
        "title": root.resolve().name,
        "states": {key: int(states.get(key, 0)) for key in ("finished", "failed", "started")},
        "differing": differing,
        "shared": [[key, _text(value)] for key, value in sorted(shared.items())],
        "methods": names,
        "levels": list(dict.fromkeys(s["level"] for s in ranked if s["level"] is not None)),
        "runs": rows,
        "settings": settings,
    }


def _entries(root: Path, run: runs.Run) -> list[Entry]:
    """A run, or its stages if it is a finished procedure."""
    name = os.path.relpath(run.path, root)
    name = run.path.resolve().name if name == "." else name
    stages = (run.summary or {}).get("stages")
    if not stages:
        flat = records.flat(run.config)
        return [Entry(name, run, None, tuple(_text(flat.get(key)) for key in _AMOUNTS))]
    entries = []
    for stage, summary in stages.items():
        part = runs.read(run.path / stage)._replace(config=run.config)
        kind = summary.get("kind") or re.sub(r"[\d/_-]+", " ", stage).strip()
        amount = (summary.get("round", stage),)
        entries.append(Entry(f"{name}/{stage}", part, str(kind), amount))
    return entries


def _methods(
    entries: Sequence[Entry], flats: Sequence[Mapping[str, Any]], differing: Sequence[str]
) -> list[str]:
    """The name of each run's method: the rule, and what sets it apart from others of that rule."""

    def rule(entry: Entry) -> str:
        config = entry.run.config.get("rule")
        name = config.get("name") if isinstance(config, dict) else config
        return entry.kind or ("dense" if name is None else str(name))

    names = [rule(entry) for entry in entries]
    methods = []
    for name, flat in zip(names, flats, strict=True):
        others = [f for f, other in zip(flats, names, strict=True) if other == name]
        telling = [
            key
            for key in differing
            if key not in _AMOUNTS and key.rpartition(".")[2] != "seed" and key in flat
            if any(other.get(key) != flat[key] or key not in other for other in others)
        ]
        short = (key.removeprefix("rule.").removesuffix(".name") for key in telling)
        values = (f"{key}={_text(flat[whole])}" for key, whole in zip(short, telling, strict=True))
        methods.append(" · ".join([name, *values]))
    return methods


def _level(dense: bool, amount: tuple[Any, ...], setting: Mapping[str, Any]) -> str | None:
    """How much a setting prunes, in words; None if it prunes nothing, or has not begun."""
    if dense:
        return None
    given = [value for value in amount if value is not None]
    sparsity = setting["sparsity"]
    if len(amount) == len(_AMOUNTS) and isinstance(amount[0], int | float):
        sparsity = amount[0]  # a schedule may not have come there yet
    if sparsity is None:
        return " ".join(map(str, given)) or None
    return f"{100 * sparsity:.4g} %"


def _row(entry: Entry, flat: Mapping[str, Any], differing: Iterable[str]) -> dict[str, Any]:
    """A run as the table shows it; what is not known is None."""
    run, summary = entry.run, entry.run.summary or {}
    validation = [line for line in run.history if line["kind"] == "validation"]
    training = [line for line in run.history if line["kind"] == "train"]
    values = {
        "validation": summary.get(
            "validation_accuracy", validation[-1].get("accuracy") if validation else None
        ),
        "test": summary.get("test_accuracy"),
        "sparsity": summary.get("sparsity", training[-1].get("sparsity") if training else None),
        "kept": summary.get("kept"),
        "flops": summary.get("flops", {}).get("sparse"),
        "bytes": summary.get("bytes", {}).get("sparse"),
        "seconds": summary.get("seconds"),
    }
    error = run.error[-ERROR_CHARACTERS:] if run.state == "failed" and run.error else None
    return {
        "name": entry.name,
        "state": run.state,
        "config": {key: _text(flat[key]) for key in differing if key in flat},
        "step": run.history[-1]["step"] if run.history else 0,
        "error": error,
        **{key: _number(value) for key, value in values.items()},
    }


def _setting(members: Sequence[runs.Run], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The statistics of runs that differ in the seed alone, and their curves."""
    frame = pd.DataFrame([[row[key] for key in _RESULTS] for row in rows], columns=_RESULTS)
    frame = frame.astype(float)
    finished = frame[[row["state"] == "finished" for row in rows]]
    return {
        "sparsity": _rounded((finished if len(finished) else frame)["sparsity"].mean(), 10),
        **{key: _statistics(finished[key]) for key in ("test", "flops", "bytes")},
        **_curves(members),
    }


def _statistics(values: pd.Series) -> dict[str, Any]:
    # Rounded, so that means of equal numbers are equal however many there are.
    mean, sd = _rounded(values.mean(), 10), _rounded(values.std(), 10)
    return {"mean": mean, "sd": sd, "n": int(values.count())}


def _curves(members: Sequence[runs.Run]) -> dict[str, Any]:
    """Runs over time, at the same at most `CURVE_POINTS` steps.

    Returns:
      ``steps``; ``accuracy``, ``churn`` and ``explored``: the `mean` over the runs that came there,
      its `sd`, and `runs`, each by itself; ``layers``: each one's name and its mean densities, a
      single one if they do not change.
    """
    columns = [
        pd.json_normalize(lines, sep="\0", max_level=0).set_index("step")
        for run in members
        if (lines := [line for line in run.history if line["kind"] == "validation"])
    ]
    steps = sorted(set().union(*(column.index for column in columns)))
    if len(steps) > CURVE_POINTS:
        last = len(steps) - 1
        steps = [steps[round(i * last / (CURVE_POINTS - 1))] for i in range(CURVE_POINTS)]
    columns = [column.reindex(steps) for column in columns]
    curves: dict[str, Any] = {"steps": steps}
    for key in ("accuracy", "churn", "explored"):
        known = [column[key] for column in columns if key in column]
        if known:
            frame = pd.concat(known, axis=1).astype(float)
            curves[key] = {
                "mean": _series(frame.mean(axis=1)),
                "sd": _series(frame.std(axis=1)),
                "runs": [_series(frame.iloc[:, i]) for i in range(frame.shape[1])],
            }
    densities = [
        pd.DataFrame([x if isinstance(x, dict) else {} for x in column["density"]], index=steps)
        for column in columns
        if "density" in column
    ]
    layers = []
    for name in sorted({name for frame in densities for name in frame}, key=_natural):
        together = pd.concat([frame[name] for frame in densities if name in frame], axis=1)
        values = _series(together.mean(axis=1))
        layers.append([name, values[:1] if len(set(values)) == 1 else values])
    return curves | {"layers": layers}


def _rank(setting: Mapping[str, Any]) -> tuple[int, float]:
    """By method, then by sparsity; those that have not begun come last."""
    sparsity = setting["sparsity"]
    return setting["method"], math.inf if sparsity is None else sparsity


def _natural(name: str) -> list[tuple[int, str]]:
    """A key for sorting by which Conv_2 comes before Conv_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _series(values: pd.Series) -> list[float | None]:
    return [_rounded(value, 4) for value in values]


def _rounded(value: float, digits: int) -> float | None:
    return None if _number(value) is None else float(f"{value:.{digits}g}")


def _number(value: Any) -> Any:
    """A number as it is; None for what is none, for NaN and infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def _text(value: Any) -> Any:
    """A value of a configuration: finite numbers and strings as they are, others in words."""
    if value is None or isinstance(value, str) or _number(value) is not None:
        return value
    return json.dumps(value)
