"""Lists of runs, each written as what it changes in a configuration.

A configuration file's ``sweep()`` returns such a list, made with the functions here: a run is a
mapping from the dotted path of a key to its value, ``{'rule.sparsity': 0.9, 'seed': 1}``.
"""

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.errors import UserError

Overrides = dict[str, Any]
"""Dotted path of a key of the configuration -> its value in one run."""


def over(key: str, values: Iterable[Any]) -> list[Overrides]:
    """Returns one run for each value of a key.

    Args:
      key: the dotted path of the key, such as ``rule.sparsity``.
      values: its values. A mapping stands for a sub-configuration.

    Returns:
      The runs.

    Example:
      >>> over('rule.sparsity', [0.9, 0.95])
      [{'rule.sparsity': 0.9}, {'rule.sparsity': 0.95}]
    """
    return [{key: value} for value in values]


def seeds(number: int, first: int = 0) -> list[Overrides]:
    """Returns one run for each of several seeds.

    Example:
      >>> seeds(3)
      [{'seed': 0}, {'seed': 1}, {'seed': 2}]
    """
    return over("seed", range(first, first + number))


def product(*grids: Sequence[Overrides]) -> list[Overrides]:
    """Returns every combination of one run from each grid; the last grid varies fastest.

    Raises:
      ValueError: if two grids set the same key.

    Example:
      >>> product(over('rule.sparsity', [0.9, 0.95]), seeds(2))
      [{'rule.sparsity': 0.9, 'seed': 0}, {'rule.sparsity': 0.9, 'seed': 1},
       {'rule.sparsity': 0.95, 'seed': 0}, {'rule.sparsity': 0.95, 'seed': 1}]
    """
    return [_joined(parts) for parts in itertools.product(*grids)]


def zip_(*grids: Sequence[Overrides]) -> list[Overrides]:
    """Returns the runs of several grids joined one by one.

    Raises:
      ValueError: if the grids differ in length, or two set the same key.

    Example:
      >>> zip_(over('rule.sparsity', [0.9, 0.95]), over('steps', [600, 1200]))
      [{'rule.sparsity': 0.9, 'steps': 600}, {'rule.sparsity': 0.95, 'steps': 1200}]
    """
    return [_joined(parts) for parts in zip(*grids, strict=True)]


def chain(*grids: Sequence[Overrides]) -> list[Overrides]:
    """Returns the runs of the grids one after the other.

    Example:
      >>> chain([{'rule': None}], over('rule.sparsity', [0.9]))
      [{'rule': None}, {'rule.sparsity': 0.9}]
    """
    return list(itertools.chain(*grids))


def _joined(parts: Iterable[Mapping[str, Any]]) -> Overrides:
    joined: Overrides = {}
    for part in parts:
        if twice := sorted(joined.keys() & part.keys()):
            raise ValueError(f"more than one grid sets {', '.join(twice)}")
        joined |= part
    return joined


def override(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of a configuration with some values replaced.

    Values that the file derives from others, such as a decay over all the steps, follow them.

    Args:
      config: the configuration; not changed.
      overrides: dotted path -> value. Whole sub-configurations may be given as mappings; they come
        first, so that another path may reach into them.

    Returns:
      The new configuration. Whether its keys mean something is checked where it is built.

    Raises:
      UserError: if a path leads through a value that is no sub-configuration.

    Example:
      >>> config = ConfigDict({'steps': 10, 'rule': {'name': 'gmp', 'sparsity': 0.5}})
      >>> override(config, {'rule.sparsity': 0.9, 'steps': 20}).to_dict()
      {'rule': {'name': 'gmp', 'sparsity': 0.9}, 'steps': 20}
    """
    config = copy.deepcopy(config)  # with the references between its values
    for path in sorted(overrides, key=lambda path: path.count(".")):
        value = overrides[path]
        *parents, key = path.split(".")
        node = config
        for parent in parents:
            node = node.get(parent) if isinstance(node, ConfigDict) else None
        if not isinstance(node, ConfigDict):
            raise UserError(
                f"{path}: config.{'.'.join(parents)} is no sub-configuration, so it has no key "
                f"{key!r}"
            )
        with node.unlocked(), node.ignore_type():
            node[key] = ConfigDict(value) if isinstance(value, Mapping) else value
    return config.copy_and_resolve_references()
