"""LeNet-5 as the Caffe examples define it, the network that 'LeNet-5' means in most of the pruning
literature, for instance in Han et al., 'Learning both weights and connections for efficient neural
networks', arXiv:1506.02626."""

import flax.linen as nn
import jax

from experiments.models.dropout import scaled_dropout


class LeNet5(nn.Module):
    """Two convolutions with max pooling and two fully connected layers, with one rectifier.

    Attributes:
      classes: units of the last layer.
      dropout: rate of `scaled_dropout` on the units of the layer before the last.
    """

    classes: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits ``[batch, classes]`` of ``[batch, height, width, channels]``."""
        x = images
        for channels in (20, 50):
            # No rectifier: in this network only the pooling follows a convolution.
            x = nn.Conv(channels, (5, 5), padding="VALID")(x)
            x = nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        layer = nn.Dense(500)
        x = nn.relu(layer(x))
        if train and self.dropout:
            kernel = layer.variables["params"]["kernel"]
            x = scaled_dropout(x, kernel, self.dropout, self.make_rng("dropout"))
        return nn.Dense(self.classes)(x)


def lenet5_caffe(classes: int = 10, dropout: float = 0.0) -> nn.Module:
    """Returns Caffe's LeNet-5.

    On 28x28x1 images it has 430,500 weights and 580 biases. Images must be at least 16x16.

    Args:
      classes: number of classes.
      dropout: the probability of dropping one of the 500 units in training, were no weight pruned;
        see `experiments.models.dropout.scaled_dropout`.

    Returns:
      The module.

    Example:
      >>> lenet5_caffe()
      LeNet5(...)
    """
    return LeNet5(classes, dropout)
