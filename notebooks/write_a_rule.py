# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A rule of your own
#
# A method in sparsejax is a *mask rule*, a function that returns an optax transformation with
# masks in its state. This notebook makes two that the library lacks, compares them with SET and
# RigL, and runs the library's own contract tests on them. ([quickstart](quickstart.ipynb) explains
# `sparsify`, masks and counts.)

# %%
import functools
import inspect
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import sparsejax

# %% [markdown]
# ## From a score to a method
#
# SET and RigL drop the smallest weights. They differ in what grows: SET draws at random, RigL takes
# the largest gradients. Between the two lies a compromise: draw at random, but so that a weight is
# the likelier to grow the larger its gradient. That explores as SET does, and still looks where the
# loss would fall.
#
# `drop_and_grow` is the form that SET and RigL share, so what has to be written is a **score**: a
# function of parameters, gradients and a random key that gives each weight a number; the largest
# grow. To draw without replacement with a probability in proportion to |g| one adds Gumbel noise to
# log |g| and takes the largest sums. All the rest (distributions, structures, exact counts,
# schedules) comes with `drop_and_grow`, to which `**options` hands it on.


# %%
def sampled_growth(sparsity, *, period=100, end=None, drop_fraction=0.3, **options):
    """Drops the smallest weights; draws what grows with probabilities in proportion to |g|."""

    def score(params, grads, key):
        leaves, treedef = jax.tree.flatten(grads)
        keys = jax.random.split(key, len(leaves))
        return treedef.unflatten(
            jnp.log(jnp.abs(g.astype(jnp.float32))) + jax.random.gumbel(k, g.shape)
            for g, k in zip(leaves, keys, strict=True)
        )

    return sparsejax.drop_and_grow(
        sparsity,
        drop_fraction=drop_fraction,
        when=sparsejax.every(period, period, end),
        grow_score=score,
        **options,
    )


# %% [markdown]
# A gradient of 0 has the score -inf, and one that is NaN ranks behind all others: the library
# guarantees that.
#
# ## From two functions to a method
#
# With `drop_and_grow` each layer keeps its number of connections. The second method lets the
# connections move between the layers: over all layers together the smallest weights go, and over
# all layers together those with the largest gradient come. (Mostafa and Wang 2019,
# [arXiv 1902.05967](https://arxiv.org/abs/1902.05967), move connections between layers in another
# way.)
#
# `mask_rule` takes any two functions: one makes the first masks, the other moves them. The second
# gets the masks, the parameters, the gradients, a key that is new at every step, and the step.
# `masks_from_scores` finds the best weights at a sparsity; `first` names those that rank before all
# others. So the move is two selections: the survivors among the kept, then the survivors and the
# best of the rest. As both hold exact counts, so does the method.


# %%
def free_movement(
    sparsity, *, period=100, end=None, drop_fraction=0.3, seed=0, distribution=None, **options
):
    """Drops the smallest weights and grows the largest gradients, over all layers together."""
    pooled = distribution or sparsejax.global_

    def first_masks(params, key):
        shared = distribution or sparsejax.erk
        return sparsejax.random_masks(params, key, sparsity, distribution=shared, **options)

    def move(masks, params, grads, key, step):
        choose = functools.partial(
            sparsejax.masks_from_scores, params, distribution=pooled, **options
        )
        fewer = 1 - (1 - drop_fraction) * (1 - sparsity)
        survivors = choose(sparsejax.magnitude(params, grads, key), fewer, first=masks)
        return choose(sparsejax.gradient(params, grads, key), sparsity, first=survivors)

    return sparsejax.mask_rule(first_masks, move, sparsejax.every(period, period, end), seed)


# %% [markdown]
# ## Do they work?
#
# The network and the data are those of the quickstart: 64 → 96 → 48 → 10 units, digits of 8 × 8
# pixels. A run is a pure function of the seed, and `jax.vmap` trains three at once.

# %%
images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
x, y = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order])
train_x, train_y, test_x, test_y = x[:1400], y[:1400], x[1400:], y[1400:]
STEPS, BATCH, SPARSITY = 300, 64, 0.95
batches = np.random.default_rng(1).integers(len(train_y), size=(STEPS, BATCH))


def init(key):
    keys = jax.random.split(key, 3)
    shapes = ((64, 96), (96, 48), (48, 10))
    return [
        {"kernel": jax.random.normal(k, s) * (2 / s[0]) ** 0.5, "bias": jnp.zeros(s[1])}
        for k, s in zip(keys, shapes, strict=True)
    ]


def logits(params, x):
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def loss(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()


def run(make_rule, seed):
    """Trains a network; returns its test accuracy, and the kept weights of each layer over time."""
    tx = sparsejax.sparsify(optax.adam(3e-3), make_rule(seed))
    params = init(jax.random.key(seed))
    opt_state = tx.init(params)
    params = sparsejax.apply_masks(params, sparsejax.get_masks(opt_state))

    def step(carry, rows):
        params, opt_state = carry
        grads = jax.grad(loss)(params, train_x[rows], train_y[rows])
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        kept = jnp.stack([jnp.count_nonzero(m["kernel"]) for m in sparsejax.get_masks(opt_state)])
        return (params, opt_state), kept

    (params, _), kept = jax.lax.scan(step, (params, opt_state), batches)
    return jnp.mean(logits(params, test_x).argmax(-1) == test_y), kept


options = {"period": 10, "end": 225, "distribution": sparsejax.erk}
methods = {
    "SET": lambda seed: sparsejax.set_(SPARSITY, seed=seed, **options),
    "RigL": lambda seed: sparsejax.rigl(SPARSITY, seed=seed, **options),
    "sampled growth": lambda seed: sampled_growth(SPARSITY, seed=seed, **options),
    "free movement": lambda seed: free_movement(SPARSITY, period=10, end=225, seed=seed),
}
results = {}
for name, make_rule in methods.items():
    results[name] = jax.jit(jax.vmap(functools.partial(run, make_rule)))(jnp.arange(3))
    accuracy, kept = results[name]
    print(
        f"{name:15} {100 * accuracy.mean():.1f} ± {100 * accuracy.std(ddof=1):.1f} % right, "
        f"kept weights at every step: {np.unique(kept.sum(-1)).tolist()}"
    )

# %% [markdown]
# Five per cent of 11,232 weights are 561.6, so 562 are kept. The deviation is that of three seeds,
# and the task is easy: the numbers say that both methods work, not that one is better. The picture
# shows what is different about the second: its layers exchange connections.

# %%
INK = "#3c4048"
figure, axes = plt.subplots(1, 2, figsize=(7.6, 2.9), sharey=True, layout="constrained")
for ax, name in zip(axes, ("sampled growth", "free movement"), strict=True):
    kept = results[name][1][0]
    for layer, colour in enumerate(("#56606b", "#d55e00", "#0072b2")):
        ax.plot(kept[:, layer], color=colour, linewidth=2)
        ax.text(STEPS + 6, kept[-1, layer], f"layer {layer + 1}", color=colour, va="center")
    ax.set_title(name, loc="left", fontsize=10, color=INK)
    ax.set_xlabel("step", color=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(colors=INK)
    ax.grid(axis="y", color="#e4e6ea")
axes[0].set_ylabel("connections kept", color=INK)
axes[0].set_ylim(0)
plt.show()

# %% [markdown]
# ## Does it hold what the library promises?
#
# Every method of the library is a row of the table `METHODS` in `tests/methods.py`, and
# `tests/test_contracts.py` runs each row against its columns: optimizers of optax, structures, low
# precision, optax's wrappers, a state that goes through the host and back. In the repository you
# would put a line into that table, and nothing else:
#
# ```python
# "sampled_growth": Method(
#     lambda **o: sampled_growth(SPARSITY, period=2, drop_fraction=0.5, **o), _constant, moves=True
# ),
# ```
#
# The first entry makes the rule, with the options that a column tries. The second says which
# sparsity the masks have after so many steps, as an exact fraction. `moves` says that connections
# come back, so that a regrown weight must be zero and its optimizer state new.
#
# A method that lives elsewhere can be tested without touching the table's file: pytest imports the
# module that `-p` names before it collects the tests, and that module adds the rows. Here it is
# written from the functions above. A third row is there to see a check fail: it grows each weight
# with a probability that gives the right number *on average*.


# %%
def right_on_average(sparsity, *, period=100, drop_fraction=0.3, seed=0, **options):
    """Wrong on purpose: the number of connections is right on average only."""

    def first_masks(params, key):
        return sparsejax.random_masks(params, key, sparsity, **options)

    def move(masks, params, grads, key, step):
        def drawn(mask):
            keep = mask & (jax.random.uniform(key, mask.shape) > drop_fraction)
            odds = drop_fraction * (1 - sparsity) / sparsity
            return keep | (~mask & (jax.random.uniform(key, mask.shape) < odds))

        return jax.tree.map(lambda m: drawn(m) if m.ndim else m, masks)

    return sparsejax.mask_rule(first_masks, move, sparsejax.every(period, period), seed)


IMPORTS = """
import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import sparsejax

from tests.methods import METHODS, Method
"""
ROW = """
METHODS["{name}"] = Method(
    lambda **o: {name}(0.75, period=2, drop_fraction=0.5, **o),
    lambda updates: Fraction(3, 4),
    moves=True,
)
"""


def contracts(rules, columns):
    """Runs some columns of the contract table on rules of one's own; returns pytest's lines."""
    with tempfile.TemporaryDirectory() as folder:
        parts = [f"{inspect.getsource(rule)}{ROW.format(name=rule.__name__)}" for rule in rules]
        Path(folder, "my_rules.py").write_text(IMPORTS + "\n\n".join(parts))
        names = " or ".join(rule.__name__ for rule in rules)
        command = [sys.executable, "-m", "pytest", "-p", "my_rules", "tests/test_contracts.py"]
        command += ["-k", f"({names}) and ({' or '.join(columns)})"]
        command += ["-q", "-rA", "--tb=no", "--color=no", "-p", "no:cacheprovider"]
        ran = subprocess.run(
            command,
            cwd=Path(sparsejax.__file__).parents[1],  # the repository
            env=os.environ | {"PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    lines = ran.stdout.splitlines()
    outcomes = [line for line in lines if line.startswith(("PASSED", "FAILED", "ERROR"))]
    return outcomes or [ran.stdout + ran.stderr]


columns = ["-channel]", "bfloat16", "MultiSteps", "-adam]"]
for line in contracts([sampled_growth, free_movement, right_on_average], columns):
    outcome, test = line.replace("tests/test_contracts.py::", "").split(" - ")[0].split(" ", 1)
    print(outcome, test)

# %% [markdown]
# The two methods pass, and the third fails where numbers are counted. To run all columns, which
# takes minutes, leave out `-k`'s second half, and add `-m "full or not full"` for every optimizer.
#
# ## What else can be bound
#
# * A rule that only prunes is `sparsejax.prune(sparsity, score=..., when=...)`.
# * What a rule has to remember from step to step is its own optax state: any transformation whose
#   state has a field `masks` is a rule, and `sparsify` asks for no more.
# * A rule whose stored weights stay dense, as with a straight-through gradient, is
#   `optax.chain(optimizer, rule)`; the loss reads `sparsejax.forward_params(params, opt_state)`.
