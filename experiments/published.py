"""Figures that a paper published, beside which the measured ones are put."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Published(NamedTuple):
    """One row of a paper's table, or one claim of it.

    Attributes:
      row: what the row is called, unique within the paper.
      measure: the content of a run's ``summary.json`` -> the measured number, in `unit`.
      unit: what is measured, such as ``% test error``.
      source: where in the paper the figure stands.
      value: the published figure, in `unit`; None where the paper makes a claim without one.
      tolerance: how far from `value` the mean over the seeds may lie.
      lower_is_better: whether a smaller number is the better one.
      claim: in words, what has to hold where there is no value.
      low: the least mean for which the claim holds.
      high: the greatest.
      overrides: what the row changes in the configuration, by dotted path.
      minutes: the expected time of one run, on one core of a CPU.
      not_run: why the row is not run unless it is asked for; empty if it is.
    """

    row: str
    measure: Callable[[dict[str, Any]], float]
    unit: str
    source: str
    value: float | None = None
    tolerance: float | None = None
    lower_is_better: bool = True
    claim: str = ""
    low: float = -math.inf
    high: float = math.inf
    overrides: Mapping[str, Any] = {}
    minutes: float = 1.0
    not_run: str = ""


def error_percent(summary: Mapping[str, Any]) -> float:
    """Returns the error on the test examples after the last step, in percent.

    Example:
      >>> error_percent({'test_accuracy': 0.875})
      12.5
    """
    return 100 * (1 - float(summary["test_accuracy"]))


def accuracy_percent(summary: Mapping[str, Any]) -> float:
    """Returns the accuracy on the test examples after the last step, in percent.

    Example:
      >>> accuracy_percent({'test_accuracy': 0.875})
      87.5
    """
    return 100 * float(summary["test_accuracy"])


def weights_kept_thousands(summary: Mapping[str, Any]) -> float:
    """Returns how many weights are left, in whole thousands; biases do not count.

    Example:
      >>> layers = {'a/kernel': {'kept': 21_776, 'total': 266_200}, 'a/bias': {'kept': 410}}
      >>> weights_kept_thousands({'layers': layers})
      22.0
    """
    layers = summary["layers"].items()
    kept = sum(layer["kept"] for path, layer in layers if not path.endswith("bias"))
    return float(round(kept / 1000))
