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
# # Quickstart
#
# sparsejax trains networks most of whose weights are exactly zero. Two sentences carry its design:
#
# 1. A **mask rule** is an optax gradient transformation that passes gradients through unchanged and
#    keeps `masks` in its state: for each weight whether it may differ from zero.
# 2. `sparsify(optimizer, rule)` is an optax gradient transformation that trains with the optimizer
#    on the weights that the masks keep, and holds all others at zero.
#
# So a sparse method is one more optax optimizer. The training loop stays your own and needs no
# hook. This notebook trains a small network on handwritten digits in such a loop, first dense, then
# with a tenth of its weights, and looks at what came out.

# %%
import functools
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import sparsejax

# %% [markdown]
# ## A network and a loop, without sparsejax
#
# The data are the 1,797 digits of 8 × 8 pixels that come with scikit-learn. The network is three
# matrices in a plain dictionary; any pytree will do, such as the parameters of flax, equinox or
# haiku.

# %%
images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
x, y = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order])
train_x, train_y, test_x, test_y = x[:1400], y[:1400], x[1400:], y[1400:]


def init(key):
    """The weights of a network of 64 → 96 → 48 → 10 units."""
    params = {}
    for i, (n_in, n_out) in enumerate(itertools.pairwise((64, 96, 48, 10)), start=1):
        kernel = jax.random.normal(jax.random.fold_in(key, i), (n_in, n_out))
        params[f"layer{i}"] = {"kernel": kernel * (2 / n_in) ** 0.5, "bias": jnp.zeros(n_out)}
    return params


def logits(params, x):
    for name in ("layer1", "layer2"):
        x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"])
    return x @ params["layer3"]["kernel"] + params["layer3"]["bias"]


def loss(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()


def accuracy(params):
    """The share of the test digits that the network names."""
    return jnp.mean(logits(params, test_x).argmax(-1) == test_y)


# %% [markdown]
# A step is the usual one, and the loop is a loop over batches.

# %%
STEPS, BATCH = 300, 64
batches = np.random.default_rng(1).integers(len(train_y), size=(STEPS, BATCH))


def make_step(tx):
    @jax.jit
    def step(params, opt_state, rows):
        grads = jax.grad(loss)(params, train_x[rows], train_y[rows])
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return step


# The L2 term makes weights fade that the loss does not need.
adam = optax.chain(optax.add_decayed_weights(1e-3), optax.adam(3e-3))

dense = init(jax.random.key(0))
opt_state = adam.init(dense)
step = make_step(adam)
for rows in batches:
    dense, opt_state = step(dense, opt_state, rows)
print(f"dense network: {accuracy(dense):.1%} of the test digits right")

# %% [markdown]
# ## The same, with a tenth of the weights
#
# **RigL** ([Evci et al. 2020](https://arxiv.org/abs/1911.11134)) starts from random masks. Every
# `period` steps it drops the smallest of the kept weights and lets as many others grow, those with
# the largest gradient: the number of weights stays, their places move. It ends at step `end`, so
# that the last masks are trained for a while.
#
# Against the loop above two lines are new: `sparsify` joins optimizer and rule, and the weights
# that the first masks do not keep are set to zero before training.

# %%
rule = sparsejax.rigl(sparsity=0.9, period=10, end=225)
tx = sparsejax.sparsify(adam, rule)  # new

params = init(jax.random.key(0))
opt_state = tx.init(params)
first_masks = sparsejax.get_masks(opt_state)
params = sparsejax.apply_masks(params, first_masks)  # new
step = make_step(tx)
kept = []
for rows in batches:
    params, opt_state = step(params, opt_state, rows)
    kept.append(sum(jnp.count_nonzero(layer["kernel"]) for layer in params.values()))
masks = sparsejax.get_masks(opt_state)
print(f"sparse network: {accuracy(params):.1%} of the test digits right")

# %% [markdown]
# ## What holds exactly
#
# `masks` has the structure of `params`: a boolean array for each matrix, and a single `True` for
# what stays dense. By default those are the parameters with fewer than two axes, and those whose
# name says that they are a bias, a norm or an embedding. `counts` counts what is kept.

# %%
counts = sparsejax.counts(params, masks)
for name, (n, total) in counts.items():
    print(f"{name:14} keeps {n:5,} of {total:5,} weights ({n / total:.1%})")
print(f"{'together':14} {sum(c.kept for c in counts.values()):11,} of 11,232")

# %% [markdown]
# One tenth of 11,232 is 1,123.2, and 1,123 weights are kept: not about as many, but exactly the
# nearest whole number, at every step. The weights off the masks are not small, but zero. That holds
# for any optimizer with any state (here Adam's two averages), in any precision, and where a
# gradient is NaN. What regrows starts at zero, with a new entry in the optimizer's state.

# %%
off = jax.tree.map(lambda p, m: jnp.where(m, 0, p), params, masks)
print("largest weight off the masks:", max(float(jnp.abs(p).max()) for p in jax.tree.leaves(off)))
print("most weights at any step:    ", max(map(int, kept)))

# %% [markdown]
# ## Looking at masks
#
# A column of the first matrix says which pixels one unit sees. Summed over the units, the mask is
# a picture of how many connections each pixel has. At the start they lie anywhere. RigL takes them
# from the left and right edge, where the digits are blank, to the strokes.

# %%
INK, GREY = "#3c4048", "#f1f1ee"


def picture(ax, values, title, **options):
    ax.set_title(title, fontsize=8.5, color=INK, loc="left")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax.imshow(values, **options)


pictures = {
    "mean digit": train_x.mean(0).reshape(8, 8),
    "connections at the start": first_masks["layer1"]["kernel"].sum(1).reshape(8, 8),
    "connections at the end": masks["layer1"]["kernel"].sum(1).reshape(8, 8),
}
figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.5), layout="constrained")
most = max(float(image.max()) for image in list(pictures.values())[1:])
for ax, (title, image) in zip(axes, pictures.items(), strict=True):
    if title == "mean digit":
        picture(ax, image, title, cmap="Greys")
    else:
        drawn = picture(ax, image, title, cmap="Oranges", vmin=0, vmax=most)
bar = figure.colorbar(drawn, ax=axes, label="connections of a pixel", shrink=0.8)
bar.outline.set_visible(False)
plt.show()

# %% [markdown]
# And the units themselves: the weights of those twelve that see most pixels, red where a stroke
# speaks for the unit, blue where it speaks against it, light grey where there is no weight.

# %%
first = np.asarray(params["layer1"]["kernel"])
busiest = np.argsort(-(first != 0).sum(0), kind="stable")[:12]
limit = np.abs(first[:, busiest]).max()
figure, axes = plt.subplots(2, 6, figsize=(7.2, 2.6), layout="constrained")
colours = plt.get_cmap("RdBu_r").with_extremes(bad=GREY)
for ax, unit in zip(axes.flat, busiest, strict=True):
    weights = np.where(first[:, unit] == 0, np.nan, first[:, unit]).reshape(8, 8)
    seen = f"{unit}: {np.isfinite(weights).sum()} pixels"
    picture(ax, weights, seen, cmap=colours, vmin=-limit, vmax=limit)
plt.show()

# %% [markdown]
# ## Comparing methods
#
# Each method is another rule, and all else stays. Four of them:
#
# | rule | masks |
# |---|---|
# | `static` | random, never moved |
# | `snip` | chosen once before training, by how much the loss feels each weight |
# | `gmp` | gradual magnitude pruning: from dense on, the smallest weights go little by little |
# | `rigl` | moved, as above |
#
# A whole run is a pure function. Sparsity and seed may be traced, as may all other numbers, so
# `jax.vmap` trains networks of several sparsities and seeds in one compiled program.

# %%
methods = {
    "static": lambda s, seed: sparsejax.static(s, distribution=sparsejax.erk, seed=seed),
    "SNIP": lambda s, seed: sparsejax.snip(s),
    "GMP": lambda s, seed: sparsejax.gmp(s, begin=25, end=225, period=25),
    "RigL": lambda s, seed: sparsejax.rigl(s, period=10, end=225, seed=seed),
}
sparsities, seeds = jnp.array([0.8, 0.9, 0.95, 0.98]), jnp.arange(3)


def run(make_rule, sparsity, seed):
    """Trains one network; returns its accuracy and the number of its weights."""
    tx = sparsejax.sparsify(adam, make_rule(sparsity, seed))
    step = make_step(tx)
    params = init(jax.random.key(seed))
    opt_state = tx.init(params)
    params = sparsejax.apply_masks(params, sparsejax.get_masks(opt_state))
    params, _ = jax.lax.scan(
        lambda carry, rows: (step(*carry, rows), None), (params, opt_state), batches
    )[0]
    return accuracy(params), sum(jnp.count_nonzero(p["kernel"]) for p in params.values())


results = {}
for name, make_rule in methods.items():
    over_seeds = jax.vmap(functools.partial(run, make_rule), in_axes=(None, 0))
    results[name], kept = jax.jit(jax.vmap(over_seeds, in_axes=(0, None)))(sparsities, seeds)
    print(f"{name:7} most weights at each sparsity: {kept.max(1).tolist()}")

# %%
COLOURS = {"static": "#56606b", "SNIP": "#cc79a7", "GMP": "#009e73", "RigL": "#d55e00"}

figure, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
ax.axhline(100 * accuracy(dense), color=INK, linewidth=1, linestyle=":")
ax.text(3.25, 100 * accuracy(dense), "dense", color=INK, fontsize=9, ha="right", va="bottom")
for i, (name, values) in enumerate(results.items()):
    ax.errorbar(
        np.arange(len(sparsities)) + 0.05 * (i - 1.5),
        100 * values.mean(1),
        100 * values.std(1, ddof=1),
        color=COLOURS[name],
        label=name,
        marker="o",
        markersize=4,
        capsize=2,
    )
ax.set_xticks(range(len(sparsities)), [f"{s:.0%}" for s in sparsities])
ax.set_xlabel("sparsity")
ax.set_ylim(0, 108)
ax.set_title("% of the test digits right, mean and deviation of 3 seeds", fontsize=10, loc="left")
ax.spines[["top", "right"]].set_visible(False)
ax.grid(axis="y", color="#e4e6ea")
ax.legend(frameon=False, labelcolor="linecolor", loc="lower left")
plt.show()

# %% [markdown]
# The digits are easy and these runs short, so take the picture as a demonstration and no verdict.
# What usually holds can be seen all the same: the sparser the network, the more it matters which
# weights are kept.
#
# The counts printed above differ by one here and there, since `gmp` has another default than the
# others of how the layers share the budget. That is the next subject.

# %% [markdown]
# ## Which layer keeps how much: distributions
#
# One sparsity is a budget for the whole network, and a **distribution** shares it out. `uniform`
# gives every layer the same density. `erk` gives small layers more, `global_` lets all weights
# compete with each other, `custom` names layers by a pattern of their path. Every rule takes a
# `distribution`; `masks_from_scores` shows what each would do with the dense network's weights.

# %%
half_of_the_last = functools.partial(sparsejax.custom, sparsities={"layer3/*": 0.5})
distributions = {
    "uniform": sparsejax.uniform,
    "erk": sparsejax.erk,
    "global_": sparsejax.global_,
    "custom": half_of_the_last,
}
magnitudes = jax.tree.map(jnp.abs, dense)
print(f"{'':8}", *(f"{name:>15}" for name in counts), f"{'together':>9}")
for name, distribution in distributions.items():
    choose = functools.partial(sparsejax.masks_from_scores, distribution=distribution)
    chosen = jax.jit(choose)(dense, magnitudes, 0.9)
    numbers = [c.kept for c in sparsejax.counts(dense, chosen).values()]
    print(f"{name:8}", *(f"{n:15,}" for n in numbers), f"{sum(numbers):9,}")

# %% [markdown]
# The counts of `uniform` are rounded for each layer; those of `erk` and `global_` add up to the
# budget. The layers that `custom` names are outside of the budget of the others.
#
# ## Which weights stand or fall together: structures
#
# Hardware likes zeros in patterns. A **structure** says what competes with what: `nm(1, 4)` keeps 1
# of every 4 neighbours, `block((8, 8))` whole tiles, `channel()` whole output units, and
# `constant_fan_in()` as many inputs for each output unit. Here the first matrix of the dense
# network at a sparsity of 75 %, kept weights dark:

# %%
structures = {
    "unstructured": sparsejax.unstructured(),
    "1:4": sparsejax.nm(1, 4),
    "block (8, 8)": sparsejax.block((8, 8)),
    "channel": sparsejax.channel(),
    "constant fan-in": sparsejax.constant_fan_in(),
}
figure, axes = plt.subplots(1, 5, figsize=(9.6, 1.8), layout="constrained")
for ax, (name, structure) in zip(axes, structures.items(), strict=True):
    choose = functools.partial(sparsejax.masks_from_scores, structure=structure)
    chosen = jax.jit(choose)(dense["layer1"], magnitudes["layer1"], 0.75)
    mask = np.broadcast_to(chosen["kernel"], (64, 96))
    picture(ax, mask, name, cmap="Greys", vmin=0, vmax=1.2, interpolation="nearest")
plt.show()

# %% [markdown]
# To train with one, give it to the rule. The rest of the loop is the same once more.

# %%
rule = sparsejax.rigl(0.75, period=10, end=225, structure=sparsejax.nm(1, 4))
tx = sparsejax.sparsify(adam, rule)
params = init(jax.random.key(0))
opt_state = tx.init(params)
params = sparsejax.apply_masks(params, sparsejax.get_masks(opt_state))
step = make_step(tx)
for rows in batches:
    params, opt_state = step(params, opt_state, rows)
quartets = np.asarray(sparsejax.get_masks(opt_state)["layer1"]["kernel"]).reshape(16, 4, 96)
print(f"1:4 network: {accuracy(params):.1%} of the test digits right")
print("kept of each four neighbours:", np.unique(quartets.sum(1)).tolist())

# %% [markdown]
# ## Where to go from here
#
# * [write_a_rule](write_a_rule.ipynb) makes a method of your own in twenty lines and tests it.
# * [reproduce_a_paper](reproduce_a_paper.ipynb) runs a sweep with the experiment runner and sets
#   it beside published figures.
# * `ste_magnitude` and `ste_random` keep dense weights behind a mask in the forward pass. They are
#   composed as `optax.chain(optimizer, rule)`, and the loss reads
#   `sparsejax.forward_params(params, opt_state)`.
# * The docstring of each function says what it computes, with the paper's reference and an example.
