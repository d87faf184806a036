"""LeNet-5 as the Caffe examples define it, the network that 'LeNet-5' means in most of the pruning
literature, for instance in Han et al., 'Learning both weights and connections for efficient neural
networks', arXiv:1506.02626."""

import flax.linen as nn
import jax


class LeNet5(nn.Module):
    """Two convolutions with max pooling and two fully connected layers, with one rectifier.

    Attributes:
      classes: units of the last layer.
    """

    classes: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits ``[batch, classes]`` of ``[batch, height, width, channels]``."""
        x = images
        for channels in (20, 50):
            # No rectifier: in this network only the pooling follows a convolution.
            x = nn.Conv(channels, (5, 5), padding="VALID")(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(len(x), -1)
        x = nn.relu(nn.Dense(500)(x))
        return nn.Dense(self.classes)(x)


def lenet5_caffe(classes: int = 10) -> nn.Module:
    """Returns Caffe's LeNet-5.

    On 28x28x1 images it has 430,500 weights and 580 biases. Images must be at least 16x16.

    Args:
      classes: number of classes.

    Returns:
      The module.

    Example:
      >>> lenet5_caffe()
      LeNet5(...)
    """
    return LeNet5(classes)
