"""Sparse training and pruning for JAX: exact, and composable with any optax optimizer.

Two sentences carry the design. A *mask rule* is an optax gradient transformation that passes
gradients through unchanged and keeps `masks` in its state. `sparsify(inner, rule)` is an optax
gradient transformation that trains `inner` on the support of those masks.
"""

from sparsejax import at_initialization, reparameterization
from sparsejax.algorithms.acdc import acdc
from sparsejax.algorithms.cht import cht
from sparsejax.algorithms.cram import cram
from sparsejax.algorithms.deep_r import deep_r
from sparsejax.algorithms.dsr import dsr
from sparsejax.algorithms.gmp import gmp
from sparsejax.algorithms.granet import granet
from sparsejax.algorithms.itop import rigl_itop, set_itop
from sparsejax.algorithms.magnitude_pruning import magnitude_pruning
from sparsejax.algorithms.mest import mest
from sparsejax.algorithms.movement import movement, soft_movement
from sparsejax.algorithms.obd import obd
from sparsejax.algorithms.rigl import rigl
from sparsejax.algorithms.set import set_
from sparsejax.algorithms.snfs import snfs
from sparsejax.algorithms.snip import snip
from sparsejax.algorithms.soft_threshold import soft_threshold
from sparsejax.algorithms.sr_ste import sr_ste
from sparsejax.algorithms.srigl import srigl
from sparsejax.algorithms.static import static
from sparsejax.algorithms.straight_through import ste_magnitude, ste_random
from sparsejax.algorithms.taylor import taylor
from sparsejax.algorithms.top_kast import top_kast
from sparsejax.algorithms.woodfisher import woodfisher
from sparsejax.coupling.groups import Coupling, Fixed, Group, Member, coupled_groups
from sparsejax.coupling.units import prune_units, unit_masks, unit_scores
from sparsejax.dense_rules import BehindState, DenseRule, behind
from sparsejax.diagonals import banded, diagonal
from sparsejax.distributions import custom, er, erk, global_, uniform
from sparsejax.masks import (
    Kept,
    apply_masks,
    counts,
    default_prunable,
    dense_masks,
    forward_params,
    get_masks,
    prunable_with_biases,
    straight_through,
)
from sparsejax.neurons import Neurons, neurons
from sparsejax.observers import look_through, record_explored
from sparsejax.overlap import Overlap, overlap
from sparsejax.penalties import group_lasso, l1
from sparsejax.post_training.calibration import Inputs, Layer, calibrate, find_layers
from sparsejax.post_training.dsnot import dsnot
from sparsejax.post_training.magnitude import magnitude_masks
from sparsejax.post_training.sensitivity import Sensitivity, sensitivity
from sparsejax.post_training.sparsegpt import Pruned, sparsegpt
from sparsejax.post_training.wanda import wanda
from sparsejax.redistributions import by_mean_score, by_survivors
from sparsejax.schedules import cubic, cyclic, every, exponential, linear, once
from sparsejax.scores import gradient, magnitude, nearness, random, saliency
from sparsejax.selection import top_k_mask
from sparsejax.structures import block, by_path, channel, constant_fan_in, nm, unstructured
from sparsejax.surgery import Smaller, living_units, remove_units
from sparsejax.topology import (
    add_connections,
    drop_connections,
    grow_connections,
    masks_from_scores,
    move_connections,
    random_masks,
)
from sparsejax.transforms import (
    MaskState,
    SparsifyState,
    drop_and_grow,
    fixed,
    mask_rule,
    prune,
    sparsify,
)

__all__ = [
    "BehindState",
    "Coupling",
    "DenseRule",
    "Fixed",
    "Group",
    "Inputs",
    "Kept",
    "Layer",
    "MaskState",
    "Member",
    "Neurons",
    "Overlap",
    "Pruned",
    "Sensitivity",
    "Smaller",
    "SparsifyState",
    "acdc",
    "add_connections",
    "apply_masks",
    "at_initialization",
    "banded",
    "behind",
    "block",
    "by_mean_score",
    "by_path",
    "by_survivors",
    "calibrate",
    "channel",
    "cht",
    "constant_fan_in",
    "counts",
    "coupled_groups",
    "cram",
    "cubic",
    "custom",
    "cyclic",
    "deep_r",
    "default_prunable",
    "dense_masks",
    "diagonal",
    "drop_and_grow",
    "drop_connections",
    "dsnot",
    "dsr",
    "er",
    "erk",
    "every",
    "exponential",
    "find_layers",
    "fixed",
    "forward_params",
    "get_masks",
    "global_",
    "gmp",
    "gradient",
    "granet",
    "group_lasso",
    "grow_connections",
    "l1",
    "linear",
    "living_units",
    "look_through",
    "magnitude",
    "magnitude_masks",
    "magnitude_pruning",
    "mask_rule",
    "masks_from_scores",
    "mest",
    "move_connections",
    "movement",
    "nearness",
    "neurons",
    "nm",
    "obd",
    "once",
    "overlap",
    "prunable_with_biases",
    "prune",
    "prune_units",
    "random",
    "random_masks",
    "record_explored",
    "remove_units",
    "reparameterization",
    "rigl",
    "rigl_itop",
    "saliency",
    "sensitivity",
    "set_",
    "set_itop",
    "snfs",
    "snip",
    "soft_movement",
    "soft_threshold",
    "sparsegpt",
    "sparsify",
    "sr_ste",
    "srigl",
    "static",
    "ste_magnitude",
    "ste_random",
    "straight_through",
    "taylor",
    "top_k_mask",
    "top_kast",
    "uniform",
    "unit_masks",
    "unit_scores",
    "unstructured",
    "wanda",
    "woodfisher",
]
