"""The data sets: what is read, what is refused, and what a batch is a function of."""

import gzip
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data
from experiments.errors import UserError


def test_digits_are_split_once_and_for_all():
    loaded = data.digits(validation=100)
    assert loaded.train.images.shape == (1400, 8, 8, 1)
    assert loaded.train.images.dtype == jnp.uint8
    assert len(loaded.validation.labels) == 100
    assert len(loaded.test.labels) == 297
    other = data.digits(validation=300)
    np.testing.assert_array_equal(loaded.test.images, other.test.images)
    np.testing.assert_array_equal(loaded.train.images[:1200], other.train.images)


def test_no_example_is_in_two_splits(idx_directory):
    loaded = data.mnist(idx_directory(), validation=50)
    images = np.concatenate([loaded.train.images, loaded.validation.images, loaded.test.images])
    assert len(images) == 360
    assert len(np.unique(images.reshape(360, -1), axis=0)) == 360


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_are_read_plain_and_compressed(idx_directory, name, suffix):
    loaded = getattr(data, name)(idx_directory(name, suffix), validation=50)
    expected = np.random.default_rng(0).integers(0, 256, (300, 28, 28), np.uint8)
    np.testing.assert_array_equal(loaded.train.images[..., 0], expected[:250])
    np.testing.assert_array_equal(loaded.validation.images[..., 0], expected[250:])
    np.testing.assert_array_equal(loaded.test.labels, np.arange(60) % 10)


def test_normalised_training_pixels_have_mean_0_and_variance_1(idx_directory, cifar_directory):
    for loaded in (
        data.mnist(idx_directory(), validation=50),
        data.cifar10(cifar_directory, validation=10),
        data.digits(),
    ):
        pixels = np.asarray(loaded.normalise(loaded.train.images), np.float64)
        np.testing.assert_allclose(pixels.mean(axis=(0, 1, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(pixels.var(axis=(0, 1, 2)), 1, atol=1e-5)


def test_cifar_pixels_are_stored_channel_by_channel(cifar_directory):
    loaded = data.cifar10(cifar_directory, validation=10)
    record = np.fromfile(cifar_directory / "cifar-10-batches-bin" / "data_batch_2.bin", np.uint8)
    image = loaded.train.images[20]
    assert loaded.train.images.shape == (90, 32, 32, 3)
    assert int(image[5, 7, 2]) == record[1 + 2 * 1024 + 5 * 32 + 7]
    assert int(loaded.train.labels[20]) == record[0]


def test_the_directory_comes_from_the_environment(monkeypatch, idx_directory):
    monkeypatch.setenv("SPARSEJAX_DATA", str(idx_directory()))
    assert len(data.mnist(validation=50).train.labels) == 250
    monkeypatch.delenv("SPARSEJAX_DATA")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert data.default_directory() == Path("/home/somebody/.cache/sparsejax")


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def _edit(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (IMAGES, lambda c: c[:-1], "announces .* 235200 bytes, and 235199 follow"),
        (IMAGES, lambda c: c + b"0", "235201 follow"),
        (IMAGES, lambda c: c[:9], "truncated within its header"),
        (IMAGES, lambda c: b"", "begins with"),
        (IMAGES, lambda c: _edit(c, 2, b"\x0d"), "begins with 00000d03, not with 00000803"),
        (IMAGES, lambda c: _edit(c, 3, b"\x01"), "begins with 00000801"),
        (IMAGES, lambda c: _edit(c, 6, b"\xff"), "announces"),
        (LABELS, lambda c: _edit(c, 8 + 17, b"\x0a"), "label 10 of example 17 is not in 0..9"),
        (LABELS, lambda c: _edit(c, 4, b"\0\0\1\x2b")[:-1], "299 labels, but .* 300 images"),
    ],
)
def test_a_damaged_idx_file_is_refused_by_name(idx_directory, file, damage, message):
    directory = idx_directory()
    path = directory / "mnist" / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as error:
        data.mnist(directory, validation=50)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c[: len(c) // 2],
        lambda c: c[:-4],
        lambda c: _edit(c, len(c) - 6, bytes([c[-6] ^ 1])),  # the checksum
        lambda c: _edit(c, 200, bytes([c[200] ^ 255])),
        lambda c: b"not gzip" + c,
    ],
)
def test_a_damaged_compressed_file_is_refused_by_name(idx_directory, damage):
    directory = idx_directory(suffix=".gz")
    path = directory / "mnist" / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="corrupt or truncated") as error:
        data.mnist(directory, validation=50)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named_with_its_source(tmp_path, idx_directory):
    with pytest.raises(UserError, match=r"mnist/train-images-idx3-ubyte \(or .*download.*https://"):
        data.mnist(tmp_path)
    with pytest.raises(
        UserError, match=r"data_batch_1.bin: no such file; unpack https://.*--data_dir"
    ):
        data.cifar10(tmp_path)
    directory = idx_directory()
    os.remove(directory / "mnist" / "t10k-labels-idx1-ubyte")
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte"):
        data.mnist(directory, validation=50)


def test_a_damaged_cifar_file_is_refused_by_name(cifar_directory):
    path = cifar_directory / "cifar-10-batches-bin" / "data_batch_3.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-3073])  # even at the border of a record
    with pytest.raises(UserError, match=r"data_batch_3\.bin: .*truncated: has 58387 bytes"):
        data.cifar10(cifar_directory)
    path.write_bytes(_edit(content, 2 * 3073, b"\x0b"))
    with pytest.raises(UserError, match=r"data_batch_3\.bin: corrupt: label 11 of example 2"):
        data.cifar10(cifar_directory)


def test_a_validation_split_must_leave_training_examples(idx_directory):
    with pytest.raises(UserError, match="300 of 300 training examples leaves none"):
        data.mnist(idx_directory(), validation=300)


def test_an_epoch_shows_every_example_once():
    batches = [data.batch_indices(3, step, examples=40, batch_size=8) for step in range(10)]
    assert sorted(np.concatenate(batches[:5])) == list(range(40))
    assert sorted(np.concatenate(batches[5:])) == list(range(40))
    assert not np.array_equal(np.concatenate(batches[:5]), np.concatenate(batches[5:]))


def test_an_incomplete_batch_is_dropped():
    batches = [data.batch_indices(3, step, examples=43, batch_size=8) for step in range(10)]
    assert all(len(np.unique(np.concatenate(epoch))) == 40 for epoch in (batches[:5], batches[5:]))


def test_a_batch_is_a_function_of_seed_and_step():
    steps = [17, 3, 99, 3]  # in any order, and whatever was asked before
    first = [data.batch_indices(1, step, 40, 8) for step in steps]
    data._epoch_order.cache_clear()
    again = [data.batch_indices(1, step, 40, 8) for step in reversed(steps)]
    np.testing.assert_array_equal(first, again[::-1])
    assert not np.array_equal(first[0], data.batch_indices(2, 17, 40, 8))


def test_batches_do_not_change_between_versions():
    """Golden values: change them only together with a note that earlier runs cannot be repeated."""
    assert data.batch_indices(0, 0, 1000, 4).tolist() == [459, 206, 222, 162]


def test_crop_and_flip_shifts_and_mirrors():
    image = jnp.arange(1, 32 * 32 * 3 + 1, dtype=jnp.int32).reshape(32, 32, 3)
    images = jnp.stack([image] * 64)
    out = np.asarray(data.crop_and_flip(jax.random.key(0), images))
    padded = np.pad(np.asarray(image), ((4, 4), (4, 4), (0, 0)))
    shifts = {}
    for one in out:
        found = [
            (row, column, mirrored)
            for row in range(9)
            for column in range(9)
            for mirrored in (False, True)
            if np.array_equal(
                one[:, ::-1] if mirrored else one,
                padded[row : row + 32, column : column + 32],
            )
        ]
        assert len(found) == 1
        shifts[found[0]] = True
    rows, columns, mirrored = (set(values) for values in zip(*shifts, strict=True))
    assert rows == columns == set(range(9))
    assert mirrored == {False, True}


@pytest.mark.skipif(
    not (data.default_directory() / "mnist").is_dir(),
    reason="MNIST's files are not in the data directory",
)
def test_real_mnist():
    loaded = data.mnist()
    assert loaded.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert (len(loaded.train.labels), len(loaded.test.labels)) == (55_000, 10_000)
    assert loaded.mean[0] / 255 == pytest.approx(0.1307, abs=1e-3)
    assert loaded.std[0] / 255 == pytest.approx(0.3081, abs=1e-3)


def test_gzip_is_read_whole(idx_directory):
    """A .gz file may have several members."""
    directory = idx_directory(suffix=".gz")
    path = directory / "mnist" / f"{LABELS}.gz"
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:50]) + gzip.compress(content[50:]))
    assert len(data.mnist(directory, validation=50).train.labels) == 250


def test_generated_images_are_the_same_at_every_call():
    first, again = (data.generated(height=6, width=4, train=9, classes=3) for _ in range(2))
    assert first.train.images.shape == (9, 6, 4, 3)
    assert first.validation.images.shape == first.test.images.shape == (16, 6, 4, 3)
    assert first.classes == 3
    assert set(np.asarray(first.train.labels)) <= {0, 1, 2}
    for split in ("train", "validation", "test"):
        for one, other in zip(getattr(first, split), getattr(again, split), strict=True):
            assert np.array_equal(one, other)
    assert not np.array_equal(first.test.images, first.validation.images)


@pytest.mark.parametrize("name", ["height", "width", "channels", "train", "test"])
def test_impossible_numbers_of_generated_images_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: 0 must be at least 1"):
        data.generated(**{name: 0})


def test_each_character_of_a_text_has_the_next_one_for_a_label(text_directory):
    loaded = data.tinyshakespeare(text_directory, length=9, validation=20)
    text = (text_directory / "tinyshakespeare" / "input.txt").read_text()
    alphabet = sorted(set(text))
    assert loaded.classes == len(alphabet) == 27
    splits = (loaded.train, loaded.validation, loaded.test)
    assert [len(split.labels) for split in splits] == [1290 - 129 - 20, 20, 129]
    images, labels = (np.concatenate(arrays) for arrays in zip(*splits, strict=True))
    assert images.dtype == np.uint8 and labels.dtype == np.int32
    pieces = np.concatenate([images, labels[:, -1:]], axis=1)
    assert "".join(alphabet[i] for i in pieces.ravel()) == text
    np.testing.assert_array_equal(images[:, 1:], labels[:, :-1])
    assert loaded.is_text and loaded.answers == 9
    assert loaded.normalise(loaded.train.images) is loaded.train.images


def test_what_is_wrong_with_a_text_is_named(text_directory, tmp_path):
    with pytest.raises(UserError, match=r"tinyshakespeare/input.txt: no such .* download .*https"):
        data.tinyshakespeare(tmp_path)
    with pytest.raises(UserError, match=r"12,900 characters make 100 .* 90 for validation .* 10"):
        data.tinyshakespeare(text_directory, validation=90)
    with pytest.raises(ValueError, match="length: 0 must be at least 1"):
        data.tinyshakespeare(text_directory, length=0)
    path = tmp_path / "tinyshakespeare" / "input.txt"
    path.parent.mkdir()
    path.write_bytes(b"\xff" * 9000)
    with pytest.raises(UserError, match=r"input.txt: corrupt: .*; download it again"):
        data.tinyshakespeare(tmp_path)
    path.write_text("a" * 9000)
    with pytest.raises(UserError, match="has 1 different characters, not 2 to 256"):
        data.tinyshakespeare(tmp_path)
