"""ResNet-50 for ImageNet, of He et al., 'Deep residual learning for image recognition',
arXiv:1512.03385, with the stride in the 3x3 convolutions ('v1.5'), as the pruning literature trains
it."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax

_conv = functools.partial(
    nn.Conv,
    use_bias=False,
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
)


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution beside a shortcut.

    Where the shape changes, the shortcut is a 1x1 convolution with a norm (the paper's option B).

    Attributes:
      width: channels within the block; four times as many leave it.
      stride: stride of the 3x3 convolution, 1 or 2.
    """

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[batch, h, w, channels]`` to ``[batch, h / stride, w / stride, 4 * width]``."""
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        y = nn.relu(norm()(_conv(self.width, (1, 1))(x)))
        y = nn.relu(norm()(_conv(self.width, (3, 3), strides=self.stride)(y)))
        # The block begins as its shortcut (Goyal et al., arXiv:1706.02677, section 5.1).
        y = norm(scale_init=nn.initializers.zeros)(_conv(4 * self.width, (1, 1))(y))
        if x.shape != y.shape:
            x = norm(name="norm_shortcut")(
                _conv(4 * self.width, (1, 1), strides=self.stride, name="shortcut")(x)
            )
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """Stages of bottleneck blocks; the resolution halves and the width doubles stage by stage.

    Attributes:
      blocks: blocks in each stage.
      width: channels within the blocks of the first stage.
      classes: units of the last layer.
    """

    blocks: Sequence[int]
    width: int
    classes: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits, ``[batch, classes]``, of ``[batch, height, width, channels]`` images.

        With `train` the batch's statistics normalise, and those in the collection ``batch_stats``
        move towards them.
        """
        x = _conv(self.width, (7, 7), strides=2, name="stem")(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="SAME")
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                x = Bottleneck(self.width * 2**stage, stride)(x, train)
        return nn.Dense(self.classes)(x.mean(axis=(1, 2)))


def resnet50(
    blocks: Sequence[int] = (3, 4, 6, 3), width: int = 64, classes: int = 1000
) -> nn.Module:
    """Returns ResNet-50, or the same network with other numbers of blocks or another width.

    With 1,000 classes, on 224x224x3 images, it has 25,557,032 parameters, 25,502,912 of them in
    kernels.

    Args:
      blocks: bottleneck blocks in each stage.
      width: channels within the blocks of the first stage.
      classes: number of classes.

    Returns:
      The module; it has the collection ``batch_stats`` beside ``params``.

    Raises:
      ValueError: if `width`, or a number of blocks, is not positive.

    Example:
      >>> resnet50(width=4)
      ResNet50(...)
    """
    if any(number < 1 for number in (*blocks, width)):
        raise ValueError(f"blocks {tuple(blocks)} and width {width}: each must be at least 1")
    return ResNet50(tuple(blocks), width, classes)
