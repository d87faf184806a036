"""The residual network for CIFAR of He et al., 'Deep residual learning for image recognition',
section 4.2, arXiv:1512.03385."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

# The paper's initializer, 'Delving deep into rectifiers', arXiv:1502.01852.
_he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    The shortcut has no parameters (the paper's option A): where the block halves the resolution and
    widens, the identity is subsampled and padded with channels of zeros, so that every weight of
    the network is in the main path.

    Attributes:
      width: output channels.
      stride: stride of the first convolution, 1 or 2.
      inner: channels between the two convolutions; None for as many as come out.
    """

    width: int
    stride: int
    inner: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[batch, h, w, channels]`` to ``[batch, h / stride, w / stride, width]``."""
        conv = functools.partial(
            nn.Conv, kernel_size=(3, 3), use_bias=False, kernel_init=_he_normal
        )
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        inner = self.width if self.inner is None else self.inner
        y = nn.relu(norm()(conv(inner, strides=self.stride)(x)))
        y = norm()(conv(self.width)(y))
        shortcut = x[:, :: self.stride, :: self.stride]
        new = self.width - x.shape[-1]
        padding = (new // 2, new - new // 2)
        return nn.relu(y + jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), padding)))


class ResNet(nn.Module):
    """Three stages of residual blocks; the resolution halves and the width doubles stage by stage.


    Attributes:
      blocks: blocks in each stage; the network has ``6 * blocks + 2`` layers with weights.
      width: channels of the first stage.
      classes: units of the last layer.
      inner: channels between the two convolutions of each block; None for those of its stage.
    """

    blocks: int
    width: int
    classes: int
    inner: Sequence[int] | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits, ``[batch, classes]``, of ``[batch, height, width, channels]`` images.

        With `train` the batch's statistics normalise, and those in the collection ``batch_stats``
        move towards them.
        """
        x = nn.Conv(self.width, (3, 3), use_bias=False, kernel_init=_he_normal)(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        for stage in range(3):
            for block in range(self.blocks):
                inner = None if self.inner is None else self.inner[stage * self.blocks + block]
                x = Block(self.width * 2**stage, 2 if stage and not block else 1, inner)(x, train)
        x = x.mean(axis=(1, 2))
        return nn.Dense(self.classes)(x)


def resnet20(width: int = 16, classes: int = 10, inner: Sequence[int] | None = None) -> nn.Module:
    """Returns ResNet-20 for CIFAR, with shortcuts without parameters (option A).

    On 32x32x3 images it has 269,722 parameters, 268,336 of them in kernels.

    Args:
      width: channels of the first stage.
      classes: number of classes.
      inner: channels between the two convolutions of each of the nine blocks, which is where
        channels can be cut out without a change of the shortcuts; None for those of the paper.

    Returns:
      The module; it has the collection ``batch_stats`` beside ``params``.

    Raises:
      ValueError: if `width` is not positive, or `inner` is not nine positive numbers.

    Example:
      >>> resnet20(width=4)
      ResNet(...)
    """
    if width < 1:
        raise ValueError(f"width: {width} must be at least 1")
    if inner is not None and (len(inner) != 9 or any(channels < 1 for channels in inner)):
        raise ValueError(f"inner: {tuple(inner)} must be nine numbers, each at least 1")
    return ResNet(3, width, classes, None if inner is None else tuple(inner))
