"""One training run: from a configuration and a working directory to a trained network on the disk.

The run advances on a fixed grid of steps. One dispatch executes up to `config.steps_per_dispatch`
steps on the device; every `config.log_every` steps metrics are written, and every
`config.eval_every` steps the network is evaluated and saved. A run that was interrupted continues
from a point of the same grid with the same programs, so that it ends with the same bits.
"""

import functools
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import sparsejax
from experiments import at_initialization, build, hparams, records
from experiments.checkpoint import Checkpoints
from experiments.config import check
from experiments.costs import costs
from experiments.data import Dataset, Split, batch_indices
from experiments.errors import UserError
from experiments.forward import mean_loss, training_pass
from sparsejax.masks import Kept, find_in_state, path_name
from sparsejax.metrics import churn, densities, explored
from sparsejax.reparameterization import Reparameterization
from sparsejax.typing import Masks


class TrainState(NamedTuple):
    """Everything that a step changes, and all that a checkpoint holds.

    Attributes:
      step: steps taken, an int32 scalar.
      params: the model's parameters, or what a reparameterization trains in their place.
      batch_stats: the running statistics of batch norms; empty for models without.
      opt_state: the optimizer's state, with the masks in it.
      evaluated_masks: the masks at the last evaluation, before the first those of the beginning;
        empty for a dense network.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    evaluated_masks: Any


class Result(NamedTuple):
    """What a run leaves.

    Attributes:
      state: the state after the last step.
      history: the lines of ``metrics.jsonl``.
      summary: the content of ``summary.json``, or None if the run was stopped before its end.
    """

    state: TrainState
    history: list[records.Line]
    summary: dict[str, Any] | None


class Experiment(NamedTuple):
    """The objects that a configuration describes.

    Attributes:
      dataset: the examples.
      model: maps ``(images, train)`` to logits.
      optimizer: with the mask rule, if there is one.
      sparse: whether there is one, or a reparameterization.
      start_sparse: whether the pruned weights are zero from the first step on; those of
        straight-through rules keep their values.
      seed: the run's seed.
      reparameterization: what is trained in place of the parameters, if it is something else.
    """

    dataset: Dataset
    model: nn.Module
    optimizer: optax.GradientTransformationExtraArgs
    sparse: bool
    start_sparse: bool
    seed: int
    reparameterization: Reparameterization | None = None


class Request(NamedTuple):
    """The steps that a training run asks for.

    Attributes:
      state: the state before them; given away.
      indices: int32 ``[steps, batch]``, which training examples make each batch.
    """

    state: TrainState
    indices: np.ndarray


class Trained(NamedTuple):
    """What a training run has come to.

    Attributes:
      state: the state after its last step.
      history: the lines of ``metrics.jsonl``.
      rate: the times for the summary.
    """

    state: TrainState
    history: list[records.Line]
    rate: dict[str, float | None]


Answer = tuple[TrainState, dict[str, jax.Array]]
"""The state after the steps of a request, and the sums that `train_steps` returns with it."""
Training = Generator[Request, Answer, Trained]
"""A training run that asks for its steps and leaves it to another who takes them."""
Score = Callable[[TrainState, Split], dict[str, jax.Array]]
"""`evaluate`, of an experiment."""


def prepare(config: ConfigDict, data_dir: Path | None = None) -> Experiment:
    """Builds the objects of an experiment and checks that they fit together.

    Nothing is compiled.

    Args:
      config: the configuration, as `experiments.config.default` describes it.
      data_dir: where data sets lie; None for the default.

    Returns:
      The experiment.

    Raises:
      UserError: with the key's path and what is allowed, or the name of the file that is wrong.
    """
    check(config)
    build.optimizer(config)  # what is wrong with it is said before data are read
    dataset = build.dataset(config, data_dir)
    experiment = assemble(config, dataset)
    try:
        jax.eval_shape(
            functools.partial(experiment.model.init, jax.random.key(0)), _example(dataset)
        )
    except (ArithmeticError, TypeError, ValueError) as error:
        shape = "x".join(map(str, dataset.train.images.shape[1:]))
        raise UserError(
            f"config.model: cannot take the {shape} images of config.data: {error}"
        ) from error
    batch = Split(*(jax.eval_shape(lambda x: x[: config.batch_size], x) for x in dataset.train))
    try:
        state = jax.eval_shape(functools.partial(init, experiment))
        jax.eval_shape(functools.partial(train_step, experiment), state, batch)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"config.optimizer, config.rule: cannot train config.model: {error}"
        ) from error
    return experiment


def assemble(config: ConfigDict, dataset: Dataset) -> Experiment:
    """Builds the objects of an experiment.

    Args:
      config: the configuration; what the library accepts traced may be traced.
      dataset: its data set.

    Returns:
      The experiment.

    Raises:
      UserError: if the configuration is wrong.
    """
    sparse = config.rule is not None
    model = build.model(config, dataset.classes)
    task = at_initialization.Task(model, dataset, config.batch_size, config.seed)
    return Experiment(
        dataset,
        model,
        build.optimizer(config, task),
        sparse,
        start_sparse=sparse and build.fitting(config.rule) == "sparsify",
        seed=config.seed,
        reparameterization=build.reparameterization(config),
    )


def init(experiment: Experiment) -> TrainState:
    """Returns the state before the first step, a pure function of the experiment's seed."""
    variables = experiment.model.init(
        jax.random.fold_in(jax.random.key(experiment.seed), 0), _example(experiment.dataset)
    )
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    if experiment.reparameterization is not None:
        params = experiment.reparameterization.init(params, _key(experiment, 0))
    opt_state = experiment.optimizer.init(params)
    state = TrainState(jnp.int32(0), params, batch_stats, opt_state, {})
    if experiment.sparse:
        state = state._replace(evaluated_masks=masks(experiment, state))
    if experiment.start_sparse:
        state = state._replace(params=sparsejax.apply_masks(params, state.evaluated_masks))
    return state


def train_step(
    experiment: Experiment, state: TrainState, batch: Split
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one optimizer step.

    Args:
      experiment: the experiment.
      state: the state before the step.
      batch: uint8 images ``[batch, height, width, channels]`` and int32 labels ``[batch]``, or
        characters and labels ``[batch, length]``.

    Returns:
      The state after the step, and of the batch, before the update, the mean loss and the number
      of correct answers.
    """

    method = experiment.reparameterization

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Any]]:
        if method is None:
            used = variables(experiment, state._replace(params=params))
        else:
            key = _key(experiment, state.step + 1)
            used = {"params": method.apply(params, state.step, key)}
            used["batch_stats"] = state.batch_stats
        logits, batch_stats = training_pass(
            experiment.model, experiment.dataset, experiment.seed, used, batch, state.step
        )
        loss = mean_loss(logits, batch.labels)
        total = loss if method is None else loss + method.penalty(params, state.step)
        return total, (loss, logits, batch_stats)

    def grad_fn(params: Any) -> Any:
        """The gradient at any dense parameters, for optimizers that look around."""

        def loss_at(params: Any) -> jax.Array:
            used = {"params": params, "batch_stats": state.batch_stats}
            logits, _ = training_pass(
                experiment.model, experiment.dataset, experiment.seed, used, batch, state.step
            )
            return mean_loss(logits, batch.labels)

        return jax.grad(loss_at)(params)

    grads, (loss, logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = experiment.optimizer.update(
        grads, state.opt_state, state.params, grad_fn=grad_fn
    )
    params = optax.apply_updates(state.params, updates)
    state = TrainState(state.step + 1, params, batch_stats, opt_state, state.evaluated_masks)
    return state, {"loss": loss, "correct": jnp.sum(logits.argmax(-1) == batch.labels)}


def train_steps(
    experiment: Experiment, state: TrainState, examples: Split, indices: jax.Array
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes many steps in one program.

    Args:
      experiment: the experiment.
      state: the state before the steps.
      examples: the training examples.
      indices: int32 ``[steps, batch]``, which examples make each batch.

    Returns:
      The state after the steps, the sums of their losses and of their correct answers.
    """

    def step(state: TrainState, rows: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        return train_step(experiment, state, Split(examples.images[rows], examples.labels[rows]))

    if len(indices) == 1:  # a scan of one would still be a loop to the compiler
        return step(state, indices[0])
    state, metrics = jax.lax.scan(step, state, indices)
    return state, jax.tree.map(lambda x: x.sum(0), metrics)


def evaluate(experiment: Experiment, state: TrainState, examples: Split) -> dict[str, jax.Array]:
    """Evaluates the network as a step uses it.

    Args:
      experiment: the experiment.
      state: the state.
      examples: the examples.

    Returns:
      The sums of the losses of the examples, that of a text being the mean over its characters, and
      of their correct answers.
    """

    def of_example(example: Split) -> dict[str, jax.Array]:
        image = experiment.dataset.normalise(example.images)[None]
        logits = experiment.model.apply(variables(experiment, state), image, train=False)[0]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, example.labels)
        return {"loss": loss.mean(), "correct": (logits.argmax(-1) == example.labels).sum()}

    batch_size = max(1, 1000 // experiment.dataset.answers)
    results = jax.lax.map(of_example, examples, batch_size=batch_size)
    return jax.tree.map(lambda x: x.sum(0), results)


def variables(experiment: Experiment, state: TrainState) -> dict[str, Any]:
    """Returns the variables of the forward pass; gradients reach all parameters.

    Those of a reparameterization are the ones that it would end with.
    """
    params = stored(experiment, state)
    if experiment.sparse and experiment.reparameterization is None:
        params = sparsejax.forward_params(params, state.opt_state)
    return {"params": params, "batch_stats": state.batch_stats}


def stored(experiment: Experiment, state: TrainState) -> Any:
    """Returns the network's parameters, dense behind the masks of a straight-through rule."""
    if experiment.reparameterization is not None:
        return experiment.reparameterization.finish(state.params)[0]
    return state.params


def masks(experiment: Experiment, state: TrainState) -> Masks:
    """Returns the masks in the state; those of a dense network keep everything."""
    if experiment.reparameterization is not None:
        return experiment.reparameterization.finish(state.params)[1]
    if experiment.sparse:
        return sparsejax.get_masks(state.opt_state)
    return sparsejax.dense_masks(state.params)


def counts(experiment: Experiment, state: TrainState) -> dict[str, Kept]:
    """Returns the kept and all entries of each prunable parameter, by path."""
    return sparsejax.counts(stored(experiment, state), masks(experiment, state))


def look_at_masks(experiment: Experiment, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Returns the state that remembers its masks, and what an evaluation records of them.

    Args:
      experiment: the experiment.
      state: the state that is evaluated.

    Returns:
      The state, and ``density``: the kept share of each prunable parameter, by path. A sparse
      network has also ``churn``: of the connections that the masks keep now or kept at the
      evaluation before (at the first: at the beginning), the share that only one of them keeps;
      and where the rule records it, ``explored``: the share of all that were ever kept.
    """
    now = masks(experiment, state)
    record: dict[str, Any] = {"density": densities(stored(experiment, state), now)}
    if experiment.sparse:
        record["churn"] = churn(stored(experiment, state), state.evaluated_masks, now)
        if find_in_state(state.opt_state, "explored"):
            record["explored"] = explored(stored(experiment, state), state.opt_state)
        # Copies: the next dispatch donates the state, in which no array may occur twice.
        state = state._replace(evaluated_masks=jax.tree.map(jnp.copy, now))
    return state, record


def train(
    config: ConfigDict,
    workdir: Path,
    data_dir: Path | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
    console: Console | None = None,
) -> Result:
    """Trains, or continues to train, the network of a configuration.

    Args:
      config: the configuration, as `experiments.config.default` describes it.
      workdir: where the run's files lie: ``config.json``, ``metrics.jsonl``, ``summary.json``,
        ``checkpoints/`` and ``tensorboard/``. A run that is there is continued, and not
        repeated if it is finished.
      data_dir: where data sets lie; None for the default.
      stop: asked between dispatches; when it says True, the run saves and returns.
      console: where progress is shown; None for standard output.

    Returns:
      The result.

    Raises:
      UserError: if the configuration, a data file or the working directory is wrong.
    """
    console = console or Console()
    experiment = prepare(config, data_dir)
    records.claim(workdir, config)
    begin = functools.partial(init, experiment)
    return fit(config, workdir, experiment, begin, stop=stop, console=console)


def fit(
    config: ConfigDict,
    workdir: Path,
    experiment: Experiment,
    begin: Callable[[], TrainState],
    *,
    stop: Callable[[], bool] = lambda: False,
    console: Console,
) -> Result:
    """Trains from a state to the end of a run, or continues to; see `train` for the files.

    Args:
      config: the configuration.
      workdir: the run's directory.
      experiment: the configuration's objects, as `prepare` builds them, or others in their place.
      begin: returns the state before the first step, the same at every call.
      stop: asked between dispatches; when it says True, the run saves and returns.
      console: where progress is shown.

    Returns:
      The result.

    Raises:
      UserError: if all checkpoints in the working directory are damaged.
    """
    state = jax.jit(begin)()
    checkpoints = Checkpoints(workdir / "checkpoints")
    try:
        restored = checkpoints.restore_latest(state)
        if restored is not None:
            state = restored.state
        start = int(state.step)
        summary_path = workdir / "summary.json"
        if start == config.steps and summary_path.exists():
            console.print(f"This run is finished; its results are in {summary_path}.")
            return Result(state, records.read_metrics(workdir), records.read_json(summary_path))
        if start:
            console.print(f"Continues after step {start}.")
        run = jax.jit(functools.partial(train_steps, experiment), donate_argnums=0)
        score = jax.jit(functools.partial(evaluate, experiment))
        with progress_bars(console) as bars:
            training = loop(config, workdir, experiment, state, checkpoints, score, stop, bars)
            del state  # given away with the first request
            (trained,) = together(
                [training],
                lambda asked: [run(asked[0].state, experiment.dataset.train, asked[0].indices)],
            )
        return finish(config, workdir, experiment, trained, checkpoints, score, console.print)
    finally:
        checkpoints.close()


def together(
    trainings: Sequence[Training], take: Callable[[list[Request]], Sequence[Answer]]
) -> list[Trained]:
    """Brings training runs to their ends, all of them step by step at the same time.

    Args:
      trainings: the runs. They must ask for equally many steps each time, and equally often.
      take: takes the steps that the runs ask for, one request of each.

    Returns:
      What the runs have come to.
    """
    results: list[Trained] = []
    answers: Sequence[Answer | None] = [None] * len(trainings)  # a generator begins with None
    while True:
        requests = []
        for training, answer in zip(trainings, answers, strict=True):
            try:
                requests.append(training.send(answer))  # type: ignore[arg-type]
            except StopIteration as end:
                results.append(end.value)
        if not requests:
            return results
        answers = take(requests)


def progress_bars(console: Console) -> Progress:
    """Returns the place where training runs show how far they have come; entered, it is shown."""
    return Progress(
        TextColumn("{task.description}training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=console,
        disable=not console.is_terminal,
    )


def loop(
    config: ConfigDict,
    workdir: Path,
    experiment: Experiment,
    state: TrainState,
    checkpoints: Checkpoints,
    score: Score,
    stop: Callable[[], bool],
    bars: Progress,
    name: str = "",
) -> Training:
    """Trains from a state to the end, or until it is to stop.

    Args:
      config: the configuration.
      workdir: the run's directory.
      experiment: the configuration's objects.
      state: the state to go on from.
      checkpoints: where states are saved.
      score: `evaluate`, of the experiment.
      stop: asked after each training line; when it says True, the run saves and ends.
      bars: where progress is shown.
      name: what its lines there begin with.

    Yields:
      What is to be trained next; the answer comes by ``send``.

    Returns:
      What it has come to.
    """
    dataset = experiment.dataset
    metrics = records.Metrics(workdir, int(state.step))
    started, times = time.perf_counter(), []
    bar = bars.add_task(name, total=config.steps, completed=int(state.step), status="")
    for step in range(int(state.step), config.steps, config.log_every):
        begun = time.perf_counter()
        end = min(step + config.log_every, config.steps)
        sums = []
        for first in range(step, end, config.steps_per_dispatch):
            rows = [
                batch_indices(config.seed, s, len(dataset.train.labels), config.batch_size)
                for s in range(first, min(first + config.steps_per_dispatch, end))
            ]
            state, part = yield Request(state, np.stack(rows))
            sums.append(part)
        line = {"step": end, "kind": "train"} | means(dataset, sums, end - step, config.batch_size)
        line["sparsity"] = _sparsity(experiment, state)
        times.append((end - step, time.perf_counter() - begun))
        metrics.write(line)
        stopping = stop()
        evaluating = end % config.eval_every == 0 or end == config.steps
        if evaluating:
            results = means(
                dataset, [score(state, dataset.validation)], len(dataset.validation.labels)
            )
            state, of_masks = look_at_masks(experiment, state)
            metrics.write({"step": end, "kind": "validation"} | results | of_masks)
            bars.console.print(
                f"{name}step {end:>7,}  loss {line['loss']:.4f}  sparsity {line['sparsity']:.2%}  "
                f"validation accuracy {results['accuracy']:.2%}"
            )
        if evaluating or stopping:
            metrics.sync()
            checkpoints.save(end, state, _best_step(metrics.history))
        bars.update(bar, completed=end, status=f"loss {line['loss']:.4f}")
        if stopping:
            break
    metrics.close()
    steady = times[1:]  # the first dispatch compiles
    rate = sum(n for n, _ in steady) / sum(t for _, t in steady) if steady else None
    seconds = time.perf_counter() - started
    return Trained(state, metrics.history, {"seconds": seconds, "steps_per_second": rate})


def finish(
    config: ConfigDict,
    workdir: Path,
    experiment: Experiment,
    trained: Trained,
    checkpoints: Checkpoints,
    score: Score,
    say: Callable[[str], None],
) -> Result:
    """Writes the summary of a run that has come to its end.

    Args:
      config: the configuration.
      workdir: the run's directory.
      experiment: the configuration's objects.
      trained: what `loop` returned.
      checkpoints: where it saved its states.
      score: `evaluate`, of the experiment.
      say: tells the user a sentence.

    Returns:
      The result, without a summary if the run was stopped before its end.
    """
    state, history, rate = trained
    if int(state.step) < config.steps:
        say(f"Stopped after step {int(state.step)}; the same command continues.")
        return Result(state, history, None)
    summary = _summarise(config, experiment, state, checkpoints, score, history) | rate
    hparams.write(workdir, summary["config"], summary)
    summary_path = workdir / "summary.json"
    records.write_json(summary_path, summary)
    say(
        f"Test accuracy {summary['test_accuracy']:.2%}; "
        f"{summary['kept']:,} of {summary['total']:,} parameters kept; see {summary_path}."
    )
    return Result(state, history, summary)


def _summarise(
    config: ConfigDict,
    experiment: Experiment,
    state: TrainState,
    checkpoints: Checkpoints,
    score: Score,
    history: list[records.Line],
) -> dict[str, Any]:
    """The content of summary.json, but for the times."""
    examples = experiment.dataset.test
    validation = _validation(history)

    def results(step: int, state: TrainState) -> dict[str, Any]:
        test = means(experiment.dataset, [score(state, examples)], len(examples.labels))
        return {
            "step": step,
            "validation_accuracy": validation[step],
            **{f"test_{name}": value for name, value in test.items()},
            "sparsity": _sparsity(experiment, state),
        }

    best_step = _best_step(history)
    best = checkpoints.restore(best_step, state)
    layers = _layers(experiment, state)
    return {
        **results(int(state.step), state),
        # Chosen by the validation examples. Where the sparsity grows, look at this one's too.
        "best": None if best is None else results(best_step, best),
        "config": config.to_dict(),
        "layers": {path: {"kept": kept, "total": total} for path, (kept, total) in layers.items()},
        "kept": sum(kept for kept, _ in layers.values()),
        "total": sum(total for _, total in layers.values()),
        **costs(
            experiment.model,
            jax.eval_shape(lambda: _example(experiment.dataset)),
            {"params": stored(experiment, state), "batch_stats": state.batch_stats},
            masks(experiment, state),
            config.rule,
        ),
    }


def _validation(history: list[records.Line]) -> dict[int, float]:
    """The validation accuracy at each step where it was measured."""
    return {line["step"]: line["accuracy"] for line in history if line["kind"] == "validation"}


def _best_step(history: list[records.Line]) -> int:
    """The step with the best validation accuracy, the last of equals; 0 before the first."""
    accuracies = _validation(history)
    return max(accuracies, key=lambda step: (accuracies[step], step), default=0)


def _layers(experiment: Experiment, state: TrainState) -> dict[str, tuple[int, int]]:
    """Kept and total entries of every parameter, also of those that are never pruned."""
    everything = {
        path_name(path): (leaf.size, leaf.size)
        for path, leaf in jax.tree_util.tree_leaves_with_path(stored(experiment, state))
    }
    return everything | counts(experiment, state)


def _sparsity(experiment: Experiment, state: TrainState) -> float:
    """The pruned share of the prunable weights."""
    layers = counts(experiment, state).values()
    total = sum(layer.total for layer in layers)
    return 1 - sum(layer.kept for layer in layers) / total if total else 0.0


def means(
    dataset: Dataset, sums: Sequence[dict[str, jax.Array]], losses: int, examples: int = 1
) -> dict[str, float]:
    """Returns the measures of a network that sums make up.

    Args:
      dataset: the data set.
      sums: what `train_steps` or `evaluate` return.
      losses: how many losses were summed.
      examples: of how many examples each of them is the mean.

    Returns:
      ``loss``, the mean; ``accuracy``; of text also ``perplexity``, the exponential of the mean.
    """
    sums = jax.device_get(sums)
    loss = sum(float(part["loss"]) for part in sums) / losses
    correct = sum(int(part["correct"]) for part in sums)
    found = {"loss": loss, "accuracy": correct / (losses * examples * dataset.answers)}
    return found | ({"perplexity": float(np.exp(loss))} if dataset.is_text else {})


def _key(experiment: Experiment, number: int | jax.Array) -> jax.Array:
    """The key of a reparameterization: 0 for its beginning, then one for each step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(experiment.seed), 3), number)


def _example(dataset: Dataset) -> jax.Array:
    return dataset.normalise(dataset.train.images[:1])
