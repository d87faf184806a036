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
# # Reproduce a paper
#
# The package `experiments` trains what a configuration describes and records it on the disk. Here
# it repeats, on a small scale, the MNIST rows of **SNIP**
# ([Lee et al. 2019](https://arxiv.org/abs/1810.02340)). SNIP prunes once, before training. It asks
# for one batch how much the loss would change if a weight went, |w · ∂L/∂w|, and keeps the weights
# with the largest answers. The same share of random weights (`static`) is the comparison.

# %%
import io
import math
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from ml_collections import ConfigDict
from rich.console import Console

from experiments import data, grid, launchers, report, runs, sweep
from experiments.config import default
from experiments.errors import UserError
from experiments.published import Published, error_percent

# %% [markdown]
# ## What was published
#
# A published figure is a `Published`: what is measured, where it stands in the paper, and how to
# get the number out of a run's summary. These are the paper's rows for LeNet-300-100.

# %%
published = [
    Published("dense", error_percent, "% test error", "Table 1", value=1.7, tolerance=0.4),
    Published("SNIP 95 %", error_percent, "% test error", "Table 1", value=1.6, tolerance=0.4),
    Published("SNIP 98 %", error_percent, "% test error", "Table 1", value=2.4, tolerance=0.4),
]

# %% [markdown]
# ## One configuration
#
# A configuration is an `ml_collections.ConfigDict`. A sub-configuration with a `name` stands for a
# call of the public function of that name: of optax for the optimizer, of sparsejax for the rule.
# The paper trains with SGD, a momentum of 0.9, batches of 100 and a weight decay of 5e-4.
#
# MNIST is read from `$SPARSEJAX_DATA` or `~/.cache/sparsejax`, and never downloaded. Where it is
# not there, the smaller digits of scikit-learn stand in for it, and say nothing about the paper.

# %%
STEPS = 600
config = default()
config.data = ConfigDict({"name": "mnist"})
config.batch_size = 100
config.steps = config.eval_every = STEPS
config.log_every = 200
config.optimizer = ConfigDict({"name": "sgd", "momentum": 0.9})
config.optimizer.learning_rate = ConfigDict({"name": "cosine_decay_schedule", "init_value": 0.1})
config.optimizer.learning_rate.decay_steps = config.get_ref("steps")
config.weight_decay = 5e-4
config.transform.replace_step = True  # the first batch only ranks

try:
    data.mnist(None)
except UserError:
    config.data = ConfigDict({"name": "digits"})
print(f"data set: {config.data.name}")

# %% [markdown]
# ## A sweep
#
# A sweep is a list of what each run changes in the configuration. The functions of
# `experiments.grid` make such lists, and `override` applies one.

# %%
snip = grid.over("rule", [{"name": "snip"}])
static = grid.over("rule", [{"name": "static", "distribution": "erk"}])
sparsities = grid.over("rule.sparsity", [0.9, 0.95, 0.98])
sweep_of = grid.chain(
    grid.product(grid.chain(snip, static), sparsities, grid.seeds(2)),
    grid.product(grid.over("rule", [None]), grid.seeds(2)),
)
configs = [grid.override(config, changes) for changes in sweep_of]
print(f"{len(configs)} runs, among them", *sweep_of[::5], sep="\n  ")

# %% [markdown]
# `sweep.execute` runs what is not finished of them, each in a folder named after a digest of its
# configuration, and returns what then lies on the disk. A launcher says where: `launchers.local()`
# uses all cores of this machine, others Slurm or Ray. A sweep that is interrupted, even killed, is
# called again and goes on to the same bits; a run that is finished is not repeated.
#
# The workers share what they compile by a folder, since programs of different seeds are the same.

# %%
folder = tempfile.TemporaryDirectory()
root = Path(folder.name) / "runs"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder.name) / "compiled")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

launcher, quiet = launchers.local(), Console(file=io.StringIO(), force_jupyter=False)
try:
    finished = sweep.execute(configs, root, launcher=launcher, console=quiet)
finally:
    launcher.close()
print(sweep.summary(finished))
print("files of a run:", *sorted(path.name for path in finished[0].path.iterdir()))

# %% [markdown]
# ## Records become a table
#
# `runs.find` reads the runs below a folder, wherever they were made. A run has its `config`, its
# `summary` and its `history`, in the plain types of JSON, and pandas does the rest. Parameters that
# are kept are counted exactly; the biases, which are not pruned, count among them.

# %%
rows = [
    {
        "method": (run.config["rule"] or {"name": "dense"})["name"],
        "sparsity": (run.config["rule"] or {"sparsity": 0.0})["sparsity"],
        "seed": run.config["seed"],
        "kept": run.summary["kept"],
        "error": error_percent(run.summary),
    }
    for run in runs.find(root)
]
frame = pd.DataFrame(rows).sort_values(["method", "sparsity", "seed"])
table = frame.groupby(["method", "sparsity"]).agg(
    kept=("kept", "first"), mean=("error", "mean"), deviation=("error", "std")
)
print(table.round(2).to_string())

# %% [markdown]
# ## The figure
#
# Error against sparsity, with the standard deviation over the seeds, beside the published figures
# (squares) where the data are MNIST. The runs here see the data about once, far less than the
# paper's, so their errors lie above. What can be seen already is that SNIP loses less than a random
# choice as the network gets sparser.

# %%
INK = "#3c4048"
COLOURS = {"snip": "#d55e00", "static": "#0072b2"}
NAMES = {"snip": "SNIP", "static": "random masks"}

figure, ax = plt.subplots(figsize=(6.6, 3.6), layout="constrained")
positions = {0.9: 0, 0.95: 1, 0.98: 2}
dense = table.loc["dense"]["mean"].iloc[0]
ax.axhline(dense, color=INK, linewidth=1, linestyle=":")
ax.text(-0.28, dense, "dense", color=INK, fontsize=9, va="bottom")
for method, colour in COLOURS.items():
    part = table.loc[method]
    places = [positions[sparsity] for sparsity in part.index]
    style = {"color": colour, "marker": "o", "capsize": 3, "label": NAMES[method]}
    ax.errorbar(places, part["mean"], part["deviation"], **style)
if config.data.name == "mnist":
    values = {p.row: p.value for p in published}
    ax.plot([1, 2], [values["SNIP 95 %"], values["SNIP 98 %"]], "s", color=COLOURS["snip"], mfc="w")
    ax.plot([], [], "s", color=COLOURS["snip"], mfc="w", label="SNIP, published")
    ax.plot([-0.2], [values["dense"]], "s", color=INK, mfc="w", label="dense, published")
ax.set_xticks(list(positions.values()), [f"{s:.0%}" for s in positions])
ax.set_xlim(-0.3, 2.3)
ax.set_ylim(0)
ax.set_xlabel("sparsity", color=INK)
ax.set_title(
    f"% test error on {config.data.name}, {STEPS:,} steps, mean and deviation of 2 seeds",
    loc="left",
    fontsize=10,
)
ax.spines[["top", "right"]].set_visible(False)
ax.grid(axis="y", color="#e4e6ea")
ax.legend(frameon=False, loc="upper left")
plt.show()

# %% [markdown]
# Does a row agree? It does if the mean over the seeds is within the row's tolerance. After so few
# steps that cannot be expected yet; the comparison is the same when the training is long enough.

# %%
measured = {"dense": ("dense", 0.0), "SNIP 95 %": ("snip", 0.95), "SNIP 98 %": ("snip", 0.98)}
print(f"{'':10} {'published':>10} {'measured':>10}   within {published[0].tolerance} points")
for row in published:
    mean = table.loc[measured[row.row], "mean"]
    agrees = math.isclose(mean, row.value, rel_tol=0, abs_tol=row.tolerance)
    verdict = "another data set" if config.data.name != "mnist" else "yes" if agrees else "no"
    print(f"{row.row:10} {row.value:9.1f}% {mean:9.2f}%   {verdict}")

# %% [markdown]
# ## A page of the whole sweep
#
# `python -m experiments.report DIR` makes one page of all runs below a folder: a table that can be
# sorted and filtered, accuracy against sparsity, FLOPs and bytes, the training curves, and how the
# masks move. It opens from the disk, without a server.

# %%
page = Path(folder.name) / "report.html"
shown = report.write(root, page)
print(f"{page.name} shows {shown['states']['finished']} runs of {', '.join(shown['methods'])}")
folder.cleanup()

# %% [markdown]
# ## In full
#
# The paper's rows, with its schedule and three seeds, are one command:
#
# ```
# python -m experiments.reproduce --paper lee2019
# ```
#
# It reads the configurations in `configs/` that belong to the paper; each holds its `PUBLISHED`
# rows, as above. It trains every row that a CPU can train in reasonable time, in parallel, and
# prints published beside measured figures, with a verdict. `--list` shows the papers and their
# rows, `--only ROW` trains one row, `--seeds 3` says how many seeds, `--workdir runs/reproduce` is
# where the runs lie, and `--results RESULTS.md` also writes the table to a file. As with any sweep,
# what is finished is not trained again.
