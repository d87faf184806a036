"""Products with sparse matrices that are faster than dense ones, forward and backward."""

from sparsejax.kernels.indexed import Indexed, index
from sparsejax.kernels.product import BACKENDS, default_backend, sparse_matmul, why_not
from sparsejax.kernels.tune import Timing, autotune, explain

__all__ = [
    "BACKENDS",
    "Indexed",
    "Timing",
    "autotune",
    "default_backend",
    "explain",
    "index",
    "sparse_matmul",
    "why_not",
]
