"""What a configuration may hold: everything else is refused with its path and what is allowed."""

import jax
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

import sparsejax
from experiments import build
from experiments.config import check, default
from experiments.errors import UserError
from experiments.train import prepare


def _set(config: ConfigDict, path: str, value) -> None:
    *parents, key = path.split(".")
    for parent in parents:
        config = config[parent]
    with config.ignore_type():
        config[key] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        # Names.
        (
            "data.name",
            "mnits",
            r"config\.data\.name: 'mnits' is unknown; allowed: cifar10, digits, ",
        ),
        ("model.name", "vgg", r"config\.model\.name: .* allowed: lenet300, lenet5_caffe, resnet20"),
        ("optimizer.name", "softmax_cross_entropy", r"config\.optimizer\.name: .*adam, .*sgd"),
        ("optimizer.name", 3, r"config\.optimizer\.name: 3 is unknown; allowed: adabelief"),
        (
            "rule.name",
            "rigll",
            r"config\.rule\.name: .* allowed: .*gmp, .*magnitude_pruning, .*rigl, .*set_",
        ),
        ("rule.name", None, r"config\.rule\.name: None is unknown; allowed: .*gmp"),
        (
            "rule.distribution",
            "ekr",
            r"config\.rule\.distribution\.name: 'ekr' .* er, erk, global_",
        ),
        ("rule.structure", "blok", r"config\.rule\.structure\.name: .* allowed: banded, block"),
        (
            "transform.name",
            "prune",
            r"config\.transform\.name: .* allowed: behind, chain, reparameterize, sparsify",
        ),
        ("optimizer.learning_rate", "cubical", r"config\.optimizer\.learning_rate\.name: .*cubic"),
        # Keys and arguments.
        ("stepz", 3, r"config\.stepz: unknown key; allowed: batch_size, data, .*, weight_decay"),
        ("data.augment", True, r"config\.data\.augment: digits has no such argument; allowed: val"),
        ("data.directory", "/", r"config\.data\.directory: digits has no such argument"),
        ("model.depth", 3, r"config\.model\.depth: lenet300 has .* allowed: widths, classes"),
        (
            "rule.perid",
            3,
            r"config\.rule\.perid: rigl has no such argument; allowed: sparsity, per",
        ),
        (
            "rule.structure",
            ConfigDict({"name": "nm", "n": 2}),
            r"config\.rule\.structure\.m: nm needs this argument",
        ),
        (
            "rule.structure",
            ConfigDict({"name": "by_path", "structures": {"*/kernel": "chanel"}}),
            r"config\.rule\.structure\.structures\.\*/kernel\.name: 'chanel' is unknown; allowed:",
        ),
        (
            "rule.distribution",
            ConfigDict({"name": "uniform", "leaves": ()}),
            r"config\.rule\.distribution\.leaves: uniform has no such argument; allowed: dense",
        ),
        # Types.
        ("steps", 10.0, r"config\.steps: 10\.0 is of type float; allowed: int"),
        ("steps", True, r"config\.steps: True is of type bool; allowed: int"),
        ("model", 3, r"config\.model: 3 is of type int; allowed: a sub-configuration with a name"),
        ("rule.period", "often", r"config\.rule\.period: 'often' is of type str; allowed: int"),
        ("rule.period", 2.5, r"config\.rule\.period: 2\.5 is of type float; allowed: int"),
        ("rule.sparsity", "much", r"config\.rule\.sparsity: 'much'|sparsity\.name: 'much'"),
        ("rule.seed", False, r"config\.rule\.seed: False is of type bool; allowed: int"),
        ("rule.prunable", "all", r"config\.rule\.prunable\.name: 'all' .* prunable_with"),
        ("model.widths", 300, r"config\.model\.widths: 300 is of type int; allowed: .*Sequence"),
        ("optimizer.b1", "x", r"config\.optimizer\.b1: 'x' is of type str; allowed: .*float"),
        # Values.
        ("rule.sparsity", 1.0, r"config\.rule\.sparsity: 1\.0 is impossible; allowed: in \[0, 1\)"),
        ("rule.sparsity", -0.1, r"config\.rule\.sparsity: -0\.1 is impossible"),
        ("rule.sparsity", float("nan"), r"config\.rule\.sparsity: nan is impossible"),
        ("rule.drop_fraction", 1.5, r"config\.rule\.drop_fraction: 1\.5 .* in \[0, 1\]"),
        ("rule.period", 0, r"config\.rule\.period: 0 is impossible; allowed: at least 1"),
        ("rule.end", 1, r"config\.rule: .*end"),
        ("steps", -1, r"config\.steps: -1 is impossible; allowed: at least 1"),
        ("seed", -1, r"config\.seed: -1 is impossible"),
        ("batch_size", 0, r"config\.batch_size: 0 is impossible; allowed: at least 1"),
        ("batch_size", 1301, r"config\.batch_size: 1301 .* at most the 1300 training examples"),
        ("steps_per_dispatch", 0, r"config\.steps_per_dispatch: 0 is impossible"),
        ("eval_every", 30, r"config\.eval_every: 30 .* a multiple of config\.log_every, 20"),
        ("weight_decay", -1e-4, r"config\.weight_decay: -0\.0001 is impossible"),
        ("optimizer.learning_rate", -1.0, r"config\.optimizer\.learning_rate: -1\.0 is impossible"),
        ("data.validation", 0, r"config\.data\.validation: 0 is impossible"),
        ("data.validation", 1500, r"config\.data: .*1500 of 1500 training examples leaves none"),
        ("model.widths", (0,), r"config\.model: widths: \(0,\) has a layer without units"),
        ("model.classes", 5, r"config\.model\.classes: 5 is impossible; allowed: 10, as in"),
        # What does not fit together.
        ("model", "lenet5_caffe", r"config\.model: cannot take the 8x8x1 images of config\.data"),
        (
            "rule.structure",
            ConfigDict({"name": "nm", "n": 2, "m": 7}),
            r"config\.optimizer, config\.rule: cannot train config\.model: .*Dense_0/kernel",
        ),
        ("rule", "ste_magnitude", r"config\.rule\.sparsity: ste_magnitude needs this argument"),
        (
            "rule",
            ConfigDict({"name": "ste_magnitude", "sparsity": 0.5}),
            r"config\.transform\.name: 'sparsify' .* ste_magnitude; allowed: chain",
        ),
        (
            "rule",
            ConfigDict({"name": "sr_ste", "sparsity": 0.5}),
            r"config\.transform\.name: 'sparsify' .* sr_ste; allowed: behind",
        ),
    ],
)
def test_what_is_wrong_is_refused(path, value, message):
    config = default()
    config.rule = ConfigDict({"name": "rigl", "sparsity": 0.9, "period": 20, "end": 450})
    _set(config, path, value)
    with pytest.raises(UserError, match=message):
        prepare(config)


def test_a_missing_key_is_named():
    config = default()
    del config.steps
    with pytest.raises(UserError, match=r"config\.steps: this key is missing"):
        check(config)


def test_whole_numbers_pass_where_fractions_are_meant():
    config = default()
    with config.ignore_type():
        config.weight_decay = 0
        config.optimizer.learning_rate = 1
    prepare(config)


@pytest.mark.parametrize("rule", [None, "ste"])
def test_objects_are_those_that_the_library_would_give(rule):
    params = {"kernel": jax.random.normal(jax.random.key(0), (12, 8))}
    config = default()
    config.seed = 3
    config.weight_decay = 0.5
    config.optimizer = ConfigDict({"name": "sgd", "momentum": 0.9})
    config.optimizer.learning_rate = ConfigDict(
        {"name": "polynomial_schedule", "init_value": 0.1, "end_value": 0.0, "power": 2.0}
    )
    config.optimizer.learning_rate.transition_steps = 5
    schedule = optax.polynomial_schedule(0.1, 0.0, 2.0, 5)
    inner = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(schedule, momentum=0.9))
    if rule == "ste":
        config.rule = ConfigDict({"name": "ste_random", "sparsity": 0.5})
        nm = ConfigDict({"name": "nm", "n": 2, "m": 4})
        config.rule.structure = ConfigDict({"name": "by_path", "structures": {"kern*": nm}})
        config.transform.name = "chain"
        structure = sparsejax.by_path({"kern*": sparsejax.nm(2, 4)})
        expected = optax.chain(inner, sparsejax.ste_random(0.5, structure=structure, seed=3))
    else:
        config.rule = ConfigDict({"name": "rigl", "sparsity": 0.8, "period": 2, "end": 4})
        config.rule.distribution = ConfigDict({"name": "custom", "base": "erk"})
        config.rule.distribution.sparsities = ConfigDict({"ker*": 0.75})
        config.transform.replace_step = True
        rigl = sparsejax.rigl(
            0.8,
            period=2,
            end=4,
            seed=3,
            distribution=lambda leaves, density: sparsejax.custom(
                leaves, density, sparsities={"ker*": 0.75}, base=sparsejax.erk
            ),
        )
        expected = sparsejax.sparsify(inner, rigl, replace_step=True)

    def run(tx):
        def step(carry, grads):
            p, state = carry
            updates, state = tx.update({"kernel": grads}, state, p)
            return (optax.apply_updates(p, updates), state), None

        grads = jax.random.normal(jax.random.key(1), (5, 12, 8))
        (p, state), _ = jax.lax.scan(step, (params, tx.init(params)), grads)
        return p["kernel"], sparsejax.get_masks(state)["kernel"]

    results = [jax.jit(run, static_argnums=0)(tx) for tx in (build.optimizer(config), expected)]
    np.testing.assert_array_equal(*(p for p, _ in results))
    np.testing.assert_array_equal(*(mask for _, mask in results))
    assert 0 < int(results[0][1].sum()) < 96


def test_a_rule_may_have_a_seed_of_its_own():
    params = {"kernel": np.ones((12, 8), np.float32)}
    masks = []
    for seed, own in ((0, None), (1, None), (1, 0)):
        config = default()
        config.seed = seed
        config.rule = ConfigDict({"name": "static", "sparsity": 0.5})
        if own is not None:
            config.rule.seed = own
        masks.append(sparsejax.get_masks(build.optimizer(config).init(params))["kernel"])
    assert not np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])


def test_names_are_the_public_names():
    assert set(build.RULE.candidates) >= {
        "gmp", "magnitude_pruning", "rigl", "set_", "snip", "static", "ste_magnitude", "ste_random"
    }  # fmt: skip
    assert set(build.OPTIMIZER.candidates) >= {"adam", "adamw", "sgd", "lion"}
    assert not {"scale_by_learning_rate", "clip"} & set(build.OPTIMIZER.candidates)
    assert set(build.ARGUMENTS["structure"].candidates) >= {
        "unstructured", "nm", "block", "channel", "constant_fan_in", "diagonal", "by_path"
    }  # fmt: skip
    assert set(build.ARGUMENTS["when"].candidates) == {"every", "once"}
    assert set(build.ARGUMENTS["sparsity"].candidates) >= {"cubic", "linear_schedule"}
