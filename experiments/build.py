"""From a configuration to objects: a name of a public module, and its arguments.

There is no registry: what a module exports can be named. ``{"name": "rigl", "sparsity": 0.9}`` in
the place of a rule becomes ``sparsejax.rigl(sparsity=0.9)``, and a bare string is a name
without arguments. What stands in a module below has that module's name before its own, as in
``at_initialization.grasp``. Arguments that are themselves objects, such as a distribution, are
built in the same way from their own modules.
"""

import functools
import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax
from ml_collections import ConfigDict

import sparsejax
from experiments import at_initialization, data, models
from experiments import reparameterization as reparameterizations
from experiments.config import check_limits
from experiments.errors import UserError
from sparsejax import (
    algorithms,
    diagonals,
    distributions,
    masks,
    penalties,
    schedules,
    scores,
    structures,
)
from sparsejax.algorithms import soft_threshold, straight_through
from sparsejax.dense_rules import DenseRule
from sparsejax.reparameterization import Reparameterization
from sparsejax.typing import Structure, When


class Role(NamedTuple):
    """Where the names for one kind of object come from.

    Attributes:
      candidates: the functions that may be named.
      called: whether the object is what the function returns, or the function itself.
      given: how many leading arguments are not the configuration's: the caller passes them.
    """

    candidates: Mapping[str, Callable[..., Any]]
    called: bool = True
    given: int = 0


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:  # an annotation that means something only where type checkers look
        return inspect.signature(function)


def _functions(module: types.ModuleType, returns: Any = None) -> dict[str, Callable[..., Any]]:
    """The public functions of a module, or only those that are annotated to return something."""
    return {
        name: function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_")
        and (returns is None or _signature(function).return_annotation == returns)
    }


def _with_first(name: str, functions: dict[str, Callable[..., Any]]) -> dict[str, Any]:
    """Those of the functions whose first argument has this name."""
    return {k: f for k, f in functions.items() if next(iter(_signature(f).parameters), "") == name}


DATA = Role(_functions(data, data.Dataset), given=1)
MODEL = Role(_functions(models))
OPTIMIZER = Role(
    {
        name: function
        for name, function in _with_first(
            "learning_rate", _functions(optax, optax.GradientTransformationExtraArgs)
        ).items()
        if name != "lbfgs"  # its line search needs the loss as a function, which a step has not
    }
)
RULE = Role(
    {
        name: function
        for name, function in _functions(sparsejax).items()
        if function.__module__.startswith(f"{algorithms.__name__}.")
    }
)
TRANSFORM = Role(
    {
        "behind": sparsejax.behind,
        "chain": optax.chain,
        "reparameterize": reparameterizations.reparameterize,
        "sparsify": sparsejax.sparsify,
    },
    given=2,
)
# The weights of these stay dense behind the masks: they follow the optimizer in a chain, or act on
# both sides of it.
_CHAINED = [
    name
    for module in (straight_through, soft_threshold)
    for name in _functions(module, optax.GradientTransformationExtraArgs)
]
_BEHIND = _functions(sparsejax, DenseRule)
_AMOUNT = Role(_functions(optax, optax.Schedule) | _functions(schedules, optax.Schedule))
_STRUCTURE = Role(_functions(structures, Structure) | _functions(diagonals, Structure))
_DISTRIBUTION = Role(_with_first("leaves", _functions(distributions)), called=False, given=2)
PENALTY = Role(_functions(penalties, optax.GradientTransformation))
# The arguments that are objects, by their name.
ARGUMENTS = {
    "backward_sparsity": _AMOUNT,
    "base": _DISTRIBUTION,
    "distribution": _DISTRIBUTION,
    "drop_fraction": _AMOUNT,
    "learning_rate": _AMOUNT,
    "prunable": Role(
        {f.__name__: f for f in (masks.default_prunable, masks.prunable_with_biases)},
        called=False,
        given=2,
    ),
    "schedule": Role(_with_first("begin", _functions(schedules)), called=False, given=4),
    "score": Role(_with_first("params", _functions(scores)), called=False, given=3),
    "score_optimizer": OPTIMIZER,
    "sparsity": _AMOUNT,
    "structure": _STRUCTURE,
    "structures": _STRUCTURE,
    "weight_decay": _AMOUNT,
    "when": Role(_functions(schedules, When)),
}


def make(spec: ConfigDict | str, role: Role, path: str, *given: Any, **defaults: Any) -> Any:
    """Builds the object that a sub-configuration describes.

    Args:
      spec: a mapping with a ``name`` and arguments, or a name.
      role: where the name is looked up.
      path: the sub-configuration's path, for messages.
      *given: the leading arguments, as many as the role says.
      **defaults: arguments that the function gets, if it has them and `spec` does not.

    Returns:
      The object.

    Raises:
      UserError: for a name or an argument that there is not, or a value that is impossible; the
        message has the path and what is allowed.

    Example:
      >>> make(ConfigDict({"name": "lenet300", "width": 3}), MODEL, "config.model", classes=10)
      Traceback (most recent call last):
          ...
      experiments.errors.UserError: config.model.width: lenet300 has no such argument; ...
    """
    name = name_of(spec)
    options = {} if isinstance(spec, str) else {k: v for k, v in spec.items() if k != "name"}
    if name not in role.candidates:
        raise UserError(
            f"{path}.name: {name!r} is unknown; allowed: {', '.join(sorted(role.candidates))}"
        )
    function = role.candidates[name]
    parameters = {
        parameter.name: parameter
        for parameter in list(_signature(function).parameters.values())[role.given :]
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    for key in options:
        if key not in parameters:
            allowed = ", ".join(parameters) or "none"
            raise UserError(f"{path}.{key}: {name} has no such argument; allowed: {allowed}")
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in options | defaults:
            raise UserError(f"{path}.{key}: {name} needs this argument")
    arguments = {
        key: _argument(value, parameters[key].annotation, f"{path}.{key}")
        for key, value in options.items()
    }
    arguments |= {k: v for k, v in defaults.items() if k in parameters and k not in options}
    if not role.called:
        return functools.partial(function, **arguments)
    try:
        return function(*given, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error


def dataset(config: ConfigDict, directory: Path | None) -> data.Dataset:
    """Loads the data set of a configuration.

    Args:
      config: the whole configuration.
      directory: where data sets lie, or None for the default.

    Returns:
      The data set.

    Raises:
      UserError: if the configuration or a file is wrong, or a batch exceeds the training set.
    """
    loaded = _loaded(json.dumps(ConfigDict({"data": config.data}).to_dict()), directory)
    if config.batch_size > len(loaded.train.labels):
        raise UserError(
            f"config.batch_size: {config.batch_size} is impossible; allowed: at most the "
            f"{len(loaded.train.labels)} training examples"
        )
    return loaded


@functools.lru_cache(maxsize=1)
def _loaded(spec: str, directory: Path | None) -> data.Dataset:
    """Most runs of a sweep have their data in common."""
    dataset: data.Dataset = make(ConfigDict(json.loads(spec)).data, DATA, "config.data", directory)
    return dataset


def model(config: ConfigDict, classes: int) -> nn.Module:
    """Builds the model of a configuration.

    Args:
      config: the whole configuration.
      classes: the data set's number of classes.

    Returns:
      The module.

    Raises:
      UserError: if the configuration is wrong.
    """
    if not isinstance(config.model, str) and config.model.get("classes", classes) != classes:
        raise UserError(
            f"config.model.classes: {config.model.classes} is impossible; allowed: {classes}, as "
            "in config.data"
        )
    return make(config.model, MODEL, "config.model", classes=classes)


def optimizer(
    config: ConfigDict, task: at_initialization.Task | None = None
) -> optax.GradientTransformationExtraArgs:
    """Builds the optimizer of a configuration: L1 and L2 terms, optimizer and mask rule joined.

    Args:
      config: the whole configuration.
      task: the run, for the rules that need its data before it begins; None to check the
        configuration only.

    Returns:
      The gradient transformation.

    Raises:
      UserError: if the configuration is wrong.

    Example:
      >>> from experiments.config import default
      >>> optimizer(default())
      GradientTransformationExtraArgs(...)
    """
    spec, penalty = config.optimizer, None
    if not isinstance(spec, str) and "penalty" in spec:
        penalty = make(spec.penalty, PENALTY, "config.optimizer.penalty")
        spec = ConfigDict({key: value for key, value in spec.items() if key != "penalty"})
    inner = make(spec, OPTIMIZER, "config.optimizer")
    if _is_there(config.weight_decay):
        inner = optax.chain(optax.add_decayed_weights(config.weight_decay), inner)
    if _is_there(config.l1):
        inner = optax.chain(sparsejax.l1(config.l1, prunable=lambda path, leaf: True), inner)
    if penalty is not None:
        inner = optax.chain(penalty, inner)
    if config.rule is None:
        return optax.with_extra_args_support(inner)
    others = reparameterizations.rules()
    rules = {**RULE.candidates, **at_initialization.rules(task), **others}
    is_other = name_of(config.rule) in others
    defaults = {"steps": config.steps} if is_other else {"seed": config.seed}
    rule = make(config.rule, Role(rules), "config.rule", **defaults)
    transform, allowed = name_of(config.transform), fitting(config.rule)
    if transform in TRANSFORM.candidates and transform != allowed:
        raise UserError(
            f"config.transform.name: {transform!r} is impossible with {name_of(config.rule)}; "
            f"allowed: {allowed}"
        )
    return make(config.transform, TRANSFORM, "config.transform", inner, rule)


def fitting(rule: ConfigDict | str) -> str:
    """Returns the name of the transformation by which a rule joins the optimizer.

    Args:
      rule: the configuration's rule.

    Example:
      >>> fitting('rigl'), fitting('ste_magnitude'), fitting(ConfigDict({'name': 'top_kast'}))
      ('sparsify', 'chain', 'behind')
    """
    name = name_of(rule)
    if name in reparameterizations.rules():
        return "reparameterize"
    return "chain" if name in _CHAINED else "behind" if name in _BEHIND else "sparsify"


def reparameterization(config: ConfigDict) -> Reparameterization | None:
    """Builds the reparameterization of a configuration; None if it has none.

    Args:
      config: the whole configuration.

    Raises:
      UserError: if the configuration is wrong.
    """
    role = Role(reparameterizations.rules())
    if config.rule is None or name_of(config.rule) not in role.candidates:
        return None
    made: Reparameterization = make(config.rule, role, "config.rule", steps=config.steps)
    return made


def _is_there(coefficient: float | jax.Array) -> bool:
    """Whether a term is to be added; a traced coefficient is not asked whether it is 0."""
    return isinstance(coefficient, jax.Array) or bool(coefficient)


def name_of(spec: ConfigDict | str) -> Any:
    """Returns the name in a sub-configuration, None if there is none."""
    return spec if isinstance(spec, str) else spec.get("name")


def _argument(value: Any, annotation: Any, path: str) -> Any:
    """One argument: built where it is an object, checked where it is a plain value."""
    name = path.rpartition(".")[2]
    if name in ARGUMENTS and isinstance(value, str | ConfigDict):
        if isinstance(value, ConfigDict) and "name" not in value and Mapping in _types(annotation):
            return {  # one for each layer; numbers are checked where the layers are known
                key: make(v, ARGUMENTS[name], f"{path}.{key}")
                if isinstance(v, str | ConfigDict)
                else v
                for key, v in value.items()
            }
        return make(value, ARGUMENTS[name], path)
    if isinstance(value, ConfigDict):
        return value.to_dict()
    if not _fits(value, annotation):
        wanted = ", ".join(t.__name__ for t in _PLAIN if t in _types(annotation))
        if name in ARGUMENTS:
            wanted += (", " if wanted else "") + "or a name, with arguments, of: "
            wanted += ", ".join(sorted(ARGUMENTS[name].candidates))
        raise UserError(
            f"{path}: {value!r} is of type {type(value).__name__}; "
            f"allowed: {wanted or inspect.formatannotation(annotation)}"
        )
    check_limits(path, value)
    return value


_PLAIN = (bool, int, float, str, type(None))


def _types(annotation: Any) -> set[Any]:
    """The alternatives of an annotation, those like tuple[int] without their parameters."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    parts = typing.get_args(annotation) if union else (annotation,)
    return {typing.get_origin(part) or part for part in parts}


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value of a configuration can be meant by an annotation; in doubt, yes."""
    allowed = _types(annotation)
    if not isinstance(value, _PLAIN) or allowed & {typing.Any, inspect.Parameter.empty}:
        return True
    if isinstance(value, int) and not isinstance(value, bool):
        return bool(allowed & {int, float})
    return type(value) in allowed or typing.Literal in allowed
