"""Named data sets that fit in memory, and the batches of a training step.

The functions that return a `Dataset` are the names that a configuration may use. Files are read in
the formats that their authors publish; every file is checked to its last byte, and a broken one is
refused by its name.
"""

import dataclasses
import functools
import gzip
import math
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.errors import UserError

CIFAR_RECORDS = 10_000
"""Images in each of CIFAR-10's binary files; the format has no header that would say so."""


class Split(NamedTuple):
    """Examples on the device.

    Attributes:
      images: uint8 ``[n, height, width, channels]``, as stored; of text the characters' numbers,
        ``[n, length]``.
      labels: int32 ``[n]``, from 0; of text ``[n, length]``, what follows each character.
    """

    images: jax.Array
    labels: jax.Array


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set on the device.

    Attributes:
      train: the examples to train on.
      validation: examples of the original training set that are held out from `train`.
      test: the original test set.
      mean: mean of the training pixels, one a channel, float32; None for text.
      std: their standard deviation; None for text.
      classes: number of classes.
      augment: whether training images are cropped and flipped at random.
    """

    train: Split
    validation: Split
    test: Split
    mean: np.ndarray | None
    std: np.ndarray | None
    classes: int
    augment: bool = False

    @property
    def is_text(self) -> bool:
        """Whether an example is a text, with a label for each of its characters."""
        return self.train.labels.ndim > 1

    @property
    def answers(self) -> int:
        """How many labels an example has: 1, or the length of a text."""
        return math.prod(self.train.labels.shape[1:])

    def normalise(self, images: jax.Array) -> jax.Array:
        """Returns uint8 images as float32 with mean 0 and variance 1 over the training pixels.

        Characters are numbers without a scale, and stay what they are.
        """
        if self.mean is None or self.std is None:
            return images
        return (images.astype(jnp.float32) - self.mean) / self.std


def default_directory() -> Path:
    """Returns the directory of data sets: ``$SPARSEJAX_DATA``, else ``~/.cache/sparsejax``."""
    return Path(os.environ.get("SPARSEJAX_DATA") or Path.home() / ".cache" / "sparsejax")


def digits(directory: Path | None = None, *, validation: int = 200) -> Dataset:
    """Returns the 8x8 handwritten digits that are part of scikit-learn, 1,797 in all.

    They have no published split: of one fixed shuffle the last 297 are the test set.

    Args:
      directory: not used; the data is embedded.
      validation: number of training examples that are held out.

    Returns:
      The data set, images ``[n, 8, 8, 1]`` with values from 0 to 16.

    Raises:
      UserError: if `validation` leaves nothing to train on.

    Example:
      >>> digits().train.images.shape
      (1300, 8, 8, 1)
    """
    from sklearn.datasets import load_digits  # late: slow to import, and only needed here

    images, labels = load_digits(return_X_y=True)
    images = images.astype(np.uint8).reshape(-1, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1500], order[1500:]
    return _dataset(images[train], labels[train], images[test], labels[test], validation)


def mnist(directory: Path | None = None, *, validation: int = 5000) -> Dataset:
    """Returns MNIST, 28x28 handwritten digits (LeCun et al., 1998).

    Args:
      directory: where ``mnist/train-images-idx3-ubyte`` and the other three files are, each as it
        is or with ``.gz``; by default `default_directory`.
      validation: number of training examples that are held out, the last ones of the file.

    Returns:
      The data set, images ``[n, 28, 28, 1]``.

    Raises:
      UserError: if a file is missing, truncated or corrupt, naming it.
    """
    return _idx_dataset(
        "mnist", "https://ossci-datasets.s3.amazonaws.com/mnist/", directory, validation
    )


def fashion_mnist(directory: Path | None = None, *, validation: int = 5000) -> Dataset:
    """Returns Fashion-MNIST, 28x28 pictures of clothes (Xiao et al., arXiv:1708.07747).

    Args:
      directory: where ``fashion_mnist/train-images-idx3-ubyte`` and the other three files are,
        each as it is or with ``.gz``; by default `default_directory`.
      validation: number of training examples that are held out, the last ones of the file.

    Returns:
      The data set, images ``[n, 28, 28, 1]``.

    Raises:
      UserError: if a file is missing, truncated or corrupt, naming it.
    """
    source = "https://github.com/zalandoresearch/fashion-mnist"
    return _idx_dataset("fashion_mnist", source, directory, validation)


def cifar10(
    directory: Path | None = None, *, validation: int = 5000, augment: bool = False
) -> Dataset:
    """Returns CIFAR-10, 32x32 colour photographs (Krizhevsky, 2009), from its binary version.

    Args:
      directory: where ``cifar-10-batches-bin/data_batch_1.bin`` and the other five files are; by
        default `default_directory`.
      validation: number of training examples that are held out, the last ones.
      augment: whether training images are cropped and flipped at random, as `crop_and_flip` does.

    Returns:
      The data set, images ``[n, 32, 32, 3]``.

    Raises:
      UserError: if a file is missing, truncated or corrupt, naming it.
    """
    folder = (directory or default_directory()) / "cifar-10-batches-bin"
    names = [f"data_batch_{i}.bin" for i in range(1, 6)]
    parts = [_read_cifar(folder / name) for name in [*names, "test_batch.bin"]]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True))
    return _dataset(images, labels, *parts[-1], validation, augment)


def tinyshakespeare(
    directory: Path | None = None, *, length: int = 128, validation: int = 400
) -> Dataset:
    """Returns a megabyte of Shakespeare's plays, for language models of characters.

    The text of Karpathy's char-rnn. It is cut into pieces that do not overlap, of one character
    more than the length, so that each character of an example has the next one for a label. The
    last tenth of the text is the test set.

    Args:
      directory: where ``tinyshakespeare/input.txt`` is; by default `default_directory`.
      length: characters of an example.
      validation: number of training examples that are held out, the last ones.

    Returns:
      The data set, images ``[n, length]``; its classes are the characters that occur, in the order
      of their codes.

    Raises:
      UserError: if the file is missing, is no text, or is too short for the examples.
    """
    path = (directory or default_directory()) / "tinyshakespeare" / "input.txt"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; download it from https://raw.githubusercontent.com/karpathy/"
            "char-rnn/master/data/tinyshakespeare/input.txt, or name the directory that holds "
            "tinyshakespeare/ by --data_dir or $SPARSEJAX_DATA"
        )
    if length < 1:
        raise ValueError(f"length: {length} must be at least 1")
    try:
        codes = np.array([ord(character) for character in path.read_text("utf-8")], np.int32)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: corrupt: {error}; download it again") from error
    alphabet, numbers = np.unique(codes, return_inverse=True)
    if not 2 <= len(alphabet) <= 256:
        raise UserError(f"{path}: has {len(alphabet)} different characters, not 2 to 256")
    pieces = len(numbers) // (length + 1)
    test = pieces // 10
    train = pieces - test - validation
    if train < 1 or test < 1:
        raise UserError(
            f"{path}: its {len(numbers):,} characters make {pieces} examples of {length}, with "
            f"{validation} for validation and {test} for the test too few"
        )
    text = numbers[: pieces * (length + 1)].reshape(pieces, length + 1)
    first, second, third = (
        _split(part[:, :-1].astype(np.uint8), part[:, 1:])
        for part in np.split(text, [train, train + validation])
    )
    return Dataset(first, second, third, mean=None, std=None, classes=len(alphabet))


def generated(
    directory: Path | None = None,
    *,
    height: int = 32,
    width: int = 32,
    channels: int = 3,
    classes: int = 10,
    train: int = 64,
    test: int = 16,
    validation: int = 16,
) -> Dataset:
    """Returns random images with random labels, the same at every call.

    There is nothing to learn in them. They stand for a data set of their shape that is not there,
    to see that a network fits in memory and how fast it trains.

    Args:
      directory: not used; the data is generated.
      height: of the images, in pixels.
      width: likewise.
      channels: of the images.
      classes: number of classes.
      train: number of training examples.
      test: number of test examples.
      validation: number of further training examples that are held out.

    Returns:
      The data set.

    Raises:
      ValueError: if a number is not positive.

    Example:
      >>> generated(height=8, width=6, train=20).train.images.shape
      (20, 8, 6, 3)
    """
    sizes = {"height": height, "width": width, "channels": channels, "train": train, "test": test}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: {size} must be at least 1")
    rng = np.random.default_rng(0)
    n = train + validation + test
    images = rng.integers(0, 256, (n, height, width, channels), np.uint8)
    labels = rng.integers(0, classes, n, np.int32)
    first = (images[:-test], labels[:-test], images[-test:], labels[-test:])
    return _dataset(*first, validation, classes=classes)


def batch_indices(seed: int, step: int, examples: int, batch_size: int) -> np.ndarray:
    """Returns which training examples make the batch of a step.

    A pure function of its arguments: epoch e goes through the examples in an order drawn from
    (seed, e), in whole batches; what is left over at its end is dropped.

    Args:
      seed: the run's seed.
      step: the step, from 0.
      examples: number of training examples.
      batch_size: examples in a batch, at most `examples`.

    Returns:
      int32 ``[batch_size]``.

    Example:
      >>> batch_indices(seed=0, step=7, examples=1300, batch_size=4).shape
      (4,)
    """
    epoch, batch = divmod(step, examples // batch_size)
    return _epoch_order(seed, epoch, examples)[batch * batch_size : (batch + 1) * batch_size]


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(examples).astype(np.int32)


def crop_and_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Returns every image shifted by up to 4 pixels in each direction and mirrored half of the
    time.

    This is the usual augmentation for CIFAR (He et al., arXiv:1512.03385, section 4.2): pad by 4
    black pixels, crop at random, flip left and right at random.

    Args:
      key: the random key.
      images: ``[n, height, width, channels]`` of any type.

    Returns:
      Images of the same shape and type.

    Example:
      >>> crop_and_flip(jax.random.key(0), jnp.zeros((2, 32, 32, 3), jnp.uint8)).shape
      (2, 32, 32, 3)
    """
    n, *shape = images.shape
    padded = jnp.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    crop_key, flip_key = jax.random.split(key)
    corners = jax.random.randint(crop_key, (n, 2), 0, 9)
    crop = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), shape))
    flip = jax.random.bernoulli(flip_key, shape=(n, 1, 1, 1))
    cropped = crop(padded, corners)
    return jnp.where(flip, cropped[:, :, ::-1], cropped)


def _dataset(
    images: np.ndarray,
    labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    validation: int,
    augment: bool = False,
    classes: int = 10,
) -> Dataset:
    kept = len(images) - validation
    if kept < 1:
        raise UserError(f"validation: {validation} of {len(images)} training examples leaves none")
    mean, std = _moments(images[:kept])
    return Dataset(
        train=_split(images[:kept], labels[:kept]),
        validation=_split(images[kept:], labels[kept:]),
        test=_split(test_images, test_labels),
        mean=mean,
        std=std,
        classes=classes,
        augment=augment,
    )


def _moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, from the counts of its 256 possible values."""
    values, moments = np.arange(256), []
    for channel in range(images.shape[-1]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., 0].size
        mean = share @ values
        std = np.sqrt(share @ (values - mean) ** 2)
        moments.append((mean, std if std > 0 else 1.0))
    mean, std = np.array(moments, np.float32).T
    return mean, std


def _split(images: np.ndarray, labels: np.ndarray) -> Split:
    return Split(jnp.asarray(images), jnp.asarray(labels.astype(np.int32)))


def _idx_dataset(name: str, source: str, directory: Path | None, validation: int) -> Dataset:
    folder = (directory or default_directory()) / name
    images, labels = _read_idx_pair(folder, "train", source)
    test_images, test_labels = _read_idx_pair(folder, "t10k", source)
    if images.shape[1:] != test_images.shape[1:]:
        raise UserError(
            f"{folder}: the training images are {images.shape[1:3]}, the test images "
            f"{test_images.shape[1:3]}; download both again"
        )
    return _dataset(images, labels, test_images, test_labels, validation)


def _read_idx_pair(folder: Path, part: str, source: str) -> tuple[np.ndarray, np.ndarray]:
    images_path = _find(folder / f"{part}-images-idx3-ubyte", source)
    labels_path = _find(folder / f"{part}-labels-idx1-ubyte", source)
    images, labels = _read_idx(images_path, dims=3), _read_idx(labels_path, dims=1)
    if len(images) != len(labels):
        raise UserError(
            f"{labels_path}: has {len(labels)} labels, but {images_path} has {len(images)} images; "
            "download both again"
        )
    _check_labels(labels_path, labels)
    return images[..., None], labels


def _find(path: Path, source: str) -> Path:
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    raise UserError(
        f"{path} (or {path.name}.gz): no such file; download it from {source}, or name the "
        f"directory that holds {path.parent.name}/ by --data_dir or $SPARSEJAX_DATA"
    )


def _read_idx(path: Path, dims: int) -> np.ndarray:
    """Reads an IDX file of bytes: two zeros, the type, the number of dimensions, the dimensions,
    the data."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:  # the checksum of .gz is verified here
        raise UserError(f"{path}: corrupt or truncated: {error}; download it again") from error
    header = 4 + 4 * dims
    if content[:4] != bytes([0, 0, 8, dims]):
        raise UserError(
            f"{path}: corrupt: begins with {content[:4].hex()}, not with 000008{dims:02x}, the "
            f"mark of an IDX file of bytes with {dims} dimension{'s' * (dims > 1)}; "
            "download it again"
        )
    if len(content) < header:
        raise UserError(f"{path}: truncated within its header; download it again")
    shape = tuple(int(n) for n in np.frombuffer(content[4:header], ">u4"))
    expected, found = math.prod(shape), len(content) - header
    if expected != found or not expected:
        raise UserError(
            f"{path}: corrupt or truncated: its header announces {shape}, {expected} bytes, and "
            f"{found} follow; download it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_cifar(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads a CIFAR-10 file: records of a label and the pixels, all red, all green, all blue."""
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; unpack "
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz, or name "
            f"the directory that holds {path.parent.name}/ by --data_dir or $SPARSEJAX_DATA"
        )
    content = np.fromfile(path, np.uint8)
    expected = CIFAR_RECORDS * 3073
    if len(content) != expected:
        raise UserError(
            f"{path}: corrupt or truncated: has {len(content)} bytes, not {expected}; "
            "download it again"
        )
    records = content.reshape(-1, 3073)
    _check_labels(path, records[:, 0])
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0]


def _check_labels(path: Path, labels: np.ndarray) -> None:
    if labels.max() > 9:
        first = int(np.argmax(labels > 9))
        raise UserError(
            f"{path}: corrupt: label {labels[first]} of example {first} is not in 0..9; "
            "download it again"
        )
