"""Models, one file an architecture (flax.linen). Each takes ``(images, train)`` and returns logits;
of a text ``[batch, length]`` those of each character's successor, ``[batch, length, classes]``.

A configuration names one of these functions; ``classes`` comes from the data set.
"""

from experiments.models.cnn import small_cnn
from experiments.models.lenet5 import lenet5_caffe
from experiments.models.mlp import lenet300
from experiments.models.resnet import resnet20
from experiments.models.resnet50 import resnet50
from experiments.models.transformer import text_transformer
from experiments.models.wide_resnet import wrn22_2

__all__ = [
    "lenet5_caffe",
    "lenet300",
    "resnet20",
    "resnet50",
    "small_cnn",
    "text_transformer",
    "wrn22_2",
]
