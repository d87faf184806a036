"""From a configuration to objects: a name is looked up in a public module, the other keys are its
arguments.

There is no registry: what a module exports can be named. A sub-configuration ``{'name': 'rigl',
'sparsity': 0.9}`` becomes ``sparsejax.algorithms.rigl(sparsity=0.9)``, and a bare string is a name
without arguments. Arguments that are themselves objects (a distribution, a structure, a schedule
...) are built in the same way from their own modules.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import optax
from ml_collections import ConfigDict

import sparsejax
from experiments import data, models
from experiments.config import check_limits
from experiments.errors import UserError
from sparsejax import algorithms, distributions, schedules, scores, structures


class Role(NamedTuple):
    """Where the names of one kind of object live.

    Attributes:
        candidates: the callables that may be named, by name.
        called: whether a name stands for the result of a call, or for the function itself with its
            options bound.
    """

    candidates: Mapping[str, Callable[..., Any]]
    called: bool = True


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:  # an annotation that only its own module can evaluate
        return inspect.signature(function)


def _functions(
    *modules: types.ModuleType, names: Iterable[str] = (), returns: Any = None
) -> dict[str, Any]:
    """The public functions of modules; only those in `names`, and only those annotated to return
    `returns`, if given."""
    found = {}
    for module in modules:
        for name, value in inspect.getmembers(module, inspect.isfunction):
            public = not name.startswith("_") and (not names or name in names)
            if public and (returns is None or _signature(value).return_annotation is returns):
                found[name] = value
    return found


def _optimizers() -> dict[str, Any]:
    """What optax calls an optimizer: takes a learning rate first, or needs none, and is no building
    block."""
    return {
        name: function
        for name, function in _functions(optax).items()
        if next(iter(inspect.signature(function).parameters), "") == "learning_rate"
        and not name.startswith("scale_by")
    }


def _learning_rates() -> dict[str, Any]:
    return {
        name: function
        for name, function in _functions(optax).items()
        if name.endswith("_schedule") and not name.startswith("scale_by")
    }
