"""The wide residual network for CIFAR of Zagoruyko & Komodakis, 'Wide residual networks',
arXiv:1605.07146."""

import functools

import flax.linen as nn
import jax

# The initializer of 'Delving deep into rectifiers', arXiv:1502.01852.
_conv = functools.partial(
    nn.Conv,
    use_bias=False,
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
)


class WideBlock(nn.Module):
    """Norm, rectifier and 3x3 convolution, twice, beside a shortcut.

    Where the number of channels changes, the shortcut is a 1x1 convolution of what has passed the
    first rectifier.

    Attributes:
      width: output channels.
      stride: stride of the first convolution, 1 or 2.
    """

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[batch, h, w, channels]`` to ``[batch, h / stride, w / stride, width]``."""
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        y = nn.relu(norm()(x))
        if x.shape[-1] != self.width:
            x = _conv(self.width, (1, 1), strides=self.stride, name="shortcut")(y)
        y = _conv(self.width, (3, 3), strides=self.stride)(y)
        return x + _conv(self.width, (3, 3))(nn.relu(norm()(y)))


class WideResNet(nn.Module):
    """Three stages of blocks; the resolution halves and the width doubles stage by stage.

    Attributes:
      blocks: blocks in each stage; the network's depth is ``6 * blocks + 4``.
      width: channels of the first stage, in units of 16.
      classes: units of the last layer.
    """

    blocks: int
    width: int
    classes: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits, ``[batch, classes]``, of ``[batch, height, width, channels]`` images.

        With `train` the batch's statistics normalise, and those in the collection ``batch_stats``
        move towards them.
        """
        x = _conv(16, (3, 3))(images)
        for stage in range(3):
            for block in range(self.blocks):
                stride = 2 if stage and not block else 1
                x = WideBlock(16 * self.width * 2**stage, stride)(x, train)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(self.classes)(x.mean(axis=(1, 2)))


def wrn22_2(width: int = 2, classes: int = 10) -> nn.Module:
    """Returns WRN-22-2, or the same network with another width; it has no dropout.

    On 32x32x3 images it has 1,079,642 parameters, 1,076,912 of them in kernels.

    Args:
      width: the factor by which the network is wider than the thinnest one.
      classes: number of classes.

    Returns:
      The module; it has the collection ``batch_stats`` beside ``params``.

    Raises:
      ValueError: if `width` is not positive.

    Example:
      >>> wrn22_2(width=1)
      WideResNet(...)
    """
    if width < 1:
        raise ValueError(f"width: {width} must be at least 1")
    return WideResNet(3, width, classes)
