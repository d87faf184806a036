"""Sparse training with nothing but what is on the masks in memory."""

from sparsejax.packed.places import Places, masks_of, pack, places_of, topology_of, unpack, weights
from sparsejax.packed.training import PackedState, Trainer, packed

__all__ = [
    "PackedState",
    "Places",
    "Trainer",
    "masks_of",
    "pack",
    "packed",
    "places_of",
    "topology_of",
    "unpack",
    "weights",
]
