"""What a search may choose from: for each key of the configuration, the values that it can have.

A configuration file's ``search()`` returns such a space, made with the functions here: a mapping
from the dotted path of a key to its choice, ``{'rule.sparsity': uniform(0.5, 0.99)}``. It needs no
Optuna.
"""

import json
import math
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.errors import UserError
from experiments.grid import Overrides


class Uniform(NamedTuple):
    """A real number, or the logarithm of one, uniform between two bounds that are included."""

    low: float
    high: float
    log: bool

    @property
    def corners(self) -> list[float]:
        """The outermost values."""
        return [self.low, self.high]


class Integers(NamedTuple):
    """A whole number, or about the logarithm of one, uniform between two bounds, both included."""

    low: int
    high: int
    log: bool

    @property
    def corners(self) -> list[int]:
        """The outermost values."""
        return [self.low, self.high]


class Choice(NamedTuple):
    """One of several values, in JSON, as which a study can tell all kinds of them apart."""

    texts: tuple[str, ...]

    @property
    def corners(self) -> list[str]:
        """All of them."""
        return list(self.texts)


Space = dict[str, Uniform | Integers | Choice]
"""Dotted path of a key of the configuration -> what it may be."""
Parameters = dict[str, Any]
"""Dotted path of a key -> its value in one trial, that of a choice in JSON."""


def uniform(low: float, high: float, *, log: bool = False) -> Uniform:
    """Returns the choice of a real number.

    Args:
      low: the smallest value.
      high: the largest.
      log: whether its logarithm is uniform, rather than the number.

    Returns:
      The choice.

    Raises:
      UserError: if there are no such numbers.

    Example:
      >>> uniform(1e-4, 1e-2, log=True)
      Uniform(low=0.0001, high=0.01, log=True)
    """
    _check_bounds("uniform", low, high, log)
    return Uniform(float(low), float(high), log)


def integers(low: int, high: int, *, log: bool = False) -> Integers:
    """Returns the choice of a whole number.

    Args:
      low: the smallest value.
      high: the largest.
      log: whether, but for rounding, its logarithm is uniform, rather than the number.

    Returns:
      The choice.

    Raises:
      UserError: if there are no such numbers.

    Example:
      >>> integers(50, 500, log=True)
      Integers(low=50, high=500, log=True)
    """
    _check_bounds("integers", low, high, log)
    if int(low) != low or int(high) != high:
        raise UserError(f"integers({low}, {high}): both bounds must be whole numbers")
    return Integers(int(low), int(high), log)


def choice(*values: Any) -> Choice:
    """Returns the choice of one of several values.

    Args:
      *values: the values, all different. A mapping stands for a sub-configuration.

    Returns:
      The choice.

    Raises:
      UserError: if there are none, two are the same, or JSON cannot hold one.

    Example:
      >>> choice('erk', None, {'name': 'gmp', 'begin': 0})
      Choice(texts=('"erk"', 'null', '{"begin": 0, "name": "gmp"}'))
    """
    call = f"choice({', '.join(map(repr, values))})"
    try:
        texts = tuple(json.dumps(value, sort_keys=True, allow_nan=False) for value in values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{call}: JSON cannot hold this: {error}") from error
    if not texts or len(set(texts)) < len(texts):
        raise UserError(f"{call}: give one value or more, all of them different")
    return Choice(texts)


def values(space: Space, parameters: Parameters) -> Overrides:
    """Returns what a trial changes in the configuration.

    Args:
      space: the space.
      parameters: the trial's parameters, a point in it.

    Returns:
      Dotted path -> value.

    Example:
      >>> values({'steps': integers(1, 9), 'rule': choice(None)}, {'steps': 3, 'rule': 'null'})
      {'steps': 3, 'rule': None}
    """
    return {
        key: json.loads(parameters[key]) if isinstance(kind, Choice) else parameters[key]
        for key, kind in space.items()
    }


def corners(space: Space) -> list[Parameters]:
    """Returns a few points of a space in which each bound and each value of a choice occurs.

    Example:
      >>> corners({'steps': integers(1, 9), 'rule.name': choice('set_', 'snip', 'gmp')})
      [{'steps': 1, 'rule.name': '"set_"'}, {'steps': 9, 'rule.name': '"snip"'},
       {'steps': 1, 'rule.name': '"gmp"'}]
    """
    ends = {key: kind.corners for key, kind in space.items()}
    most = max(map(len, ends.values()))
    return [{key: end[i % len(end)] for key, end in ends.items()} for i in range(most)]


def of_file(file: Path) -> Space:
    """Returns the space that a configuration file describes.

    Args:
      file: the file, with a function ``search``.

    Returns:
      The space, sorted by the keys.

    Raises:
      UserError: if the file has no such function, or the function returns no space.
    """
    function = runpy.run_path(str(file)).get("search")
    if function is None:
        raise UserError(
            f"{file}: there is no function search() in it; it returns what may be chosen, such as "
            "{'rule.sparsity': uniform(0.5, 0.99)}, see experiments/space.py"
        )
    space = function()
    kinds = (Uniform, Integers, Choice)
    if not isinstance(space, Mapping) or not space:
        raise UserError(f"{file}: search() must return a mapping that is not empty, not {space!r}")
    for key, kind in space.items():
        if not isinstance(kind, kinds):
            raise UserError(
                f"{file}: search() gives {key} {kind!r}; allowed: uniform(...), integers(...), "
                "choice(...) of experiments/space.py"
            )
    return dict(sorted(space.items()))


def _check_bounds(name: str, low: float, high: float, log: bool) -> None:
    numbers = all(isinstance(bound, int | float) for bound in (low, high))
    if not numbers or not -math.inf < low <= high < math.inf:
        raise UserError(f"{name}({low}, {high}): the bounds must be finite numbers, low <= high")
    if log and low <= 0:
        raise UserError(f"{name}({low}, {high}, log=True): both bounds must be greater than 0")
