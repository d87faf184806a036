"""Networks in files for other programs, which have to be the networks that were trained."""

import io
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

import sparsejax
from experiments import data, interchange, models, records
from experiments.config import default
from experiments.errors import UserError
from experiments.export import export, table
from experiments.interchange import FORMATS, Network
from experiments.train import train

DIGITS = np.asarray(data.digits().test.images)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder and the last state of a run whose weights off the masks are not 0."""
    config = default()
    config.model.widths = (16,)
    config.rule = ConfigDict({"name": "ste_magnitude", "sparsity": 0.8})
    config.transform.name = "chain"
    config.optimizer.learning_rate = 0.02
    config.batch_size, config.steps, config.log_every, config.eval_every = 32, 12, 2, 4
    folder = tmp_path_factory.mktemp("runs") / "ste"
    state = train(config, folder, console=Console(file=io.StringIO())).state
    return folder, state


def sparse_kernels(state):
    """The kernels as they take part in the forward pass."""
    masks = sparsejax.get_masks(state.opt_state)
    kernels = []
    for name in ("Dense_0", "Dense_1"):
        kernel, mask = (np.asarray(tree[name]["kernel"]) for tree in (state.params, masks))
        assert kernel[~mask].any() and not mask.all()
        kernels.append(np.where(mask, kernel, np.float32(0)))
    return kernels


def by_hand(state, images):
    """The logits of uint8 images, in NumPy."""
    pixels = np.asarray(data.digits().train.images, np.float64)
    x = ((images - pixels.mean()) / pixels.std()).reshape(len(images), -1)
    first, second = sparse_kernels(state)
    biases = [np.asarray(state.params[name]["bias"]) for name in ("Dense_0", "Dense_1")]
    return np.maximum(x @ first + biases[0], 0) @ second + biases[1]


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_the_network_of_the_run(name, trained, tmp_path):
    folder, state = trained
    out = tmp_path / f"net.{name}"
    out.write_text("what was there before")
    exported = export(folder, name, out)
    assert list(tmp_path.iterdir()) == [out]
    right = by_hand(state, DIGITS).argmax(-1) == np.asarray(data.digits().test.labels)
    summary = json.loads((folder / "summary.json").read_text())
    assert exported.accuracy == exported.exported_accuracy == right.mean()
    assert exported.accuracy == pytest.approx(summary["test_accuracy"])
    assert exported.difference < 1e-5
    assert exported.nbytes == out.stat().st_size
    assert exported.nbytes_dense == 4 * (64 * 16 + 16 + 16 * 10 + 10)
    console = Console(file=io.StringIO(), width=120)
    console.print(table(exported))
    assert f"{right.mean():.2%}" in console.file.getvalue()
    if name != "safetensors":  # they hold the arrays as they are, zeros included
        content = out.read_bytes()
        for kernel in sparse_kernels(state):
            assert kernel.tobytes() in content


def test_parameters_and_configuration_are_in_safetensors(trained, tmp_path):
    folder, state = trained
    out = tmp_path / "net"
    export(folder, "safetensors", out)
    saved = sparsejax.formats.load(out)
    assert saved.config == json.loads((folder / "config.json").read_text())
    for name, kernel in zip(("Dense_0", "Dense_1"), sparse_kernels(state), strict=True):
        assert np.array_equal(saved.params["params"][name]["kernel"], kernel)
        assert np.array_equal(saved.masks["params"][name]["kernel"], kernel != 0)


def test_onnx_runtime_runs_any_number_of_images(trained):
    folder, state = trained
    exported = export(folder, "onnx")
    assert exported.path == folder / "network.onnx"
    import onnxruntime

    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == (
        "images",
        "tensor(uint8)",
        ["batch", 8, 8, 1],
    )
    assert (logits.name, logits.shape) == ("logits", ["batch", 10])
    for n in (1, 3):
        found = session.run(["logits"], {"images": DIGITS[:n]})[0]
        np.testing.assert_allclose(found, by_hand(state, DIGITS[:n]), atol=1e-5)


RUN_STABLEHLO = """
import sys
import numpy as np
from jax import export

network = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
images = np.load(sys.argv[2])
assert set(network.platforms) >= {"cpu", "cuda", "tpu"}
np.savez(sys.argv[3], one=network.call(images[:1]), three=network.call(images[:3]))
assert not {"experiments", "flax", "sparsejax"} & sys.modules.keys()
"""


def test_stablehlo_needs_jax_alone(trained, tmp_path):
    folder, state = trained
    export(folder, "stablehlo", tmp_path / "net")
    np.save(tmp_path / "images.npy", DIGITS)
    command = [sys.executable, "-c", RUN_STABLEHLO, "net", "images.npy", "logits.npz"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    with np.load(tmp_path / "logits.npz") as logits:
        for n, name in ((1, "one"), (3, "three")):
            np.testing.assert_allclose(logits[name], by_hand(state, DIGITS[:n]), atol=1e-5)


@pytest.mark.parametrize("name", FORMATS)
def test_batch_statistics_go_along(name, tmp_path):
    dataset, model = data.digits(), models.resnet50(blocks=(2, 2), width=2)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(  # not those of the beginning, where the blocks are their shortcuts
        lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32),
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1))),
    )
    masks = sparsejax.magnitude_masks(variables["params"], 0.5)
    variables["params"] = sparsejax.apply_masks(variables["params"], masks)
    network = Network({}, model, dataset, variables, masks)
    FORMATS[name].write(tmp_path / "net", network)
    nothing = jax.tree.map(jnp.zeros_like, variables)
    read = FORMATS[name].read(tmp_path / "net", network._replace(variables=nothing))
    images = dataset.normalise(dataset.test.images[:5])
    expected = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(read(DIGITS[:5]), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (models.lenet5_caffe(), (28, 28, 1)),
        (models.small_cnn(widths=(3, 4), hidden=5), (8, 8, 1)),
        (models.text_transformer(layers=1, width=8, heads=2, classes=10), (6,)),
    ],
)
def test_the_models_can_be_written_as_onnx(model, shape, tmp_path):
    """Some ways to write the same are not known to jax2onnx."""
    rng = np.random.default_rng(0)
    examples = data.Split(rng.integers(0, 10, (5, *shape), np.uint8), np.zeros(5, np.int32))
    numbers = (None, None) if len(shape) == 1 else (np.ones(1, np.float32), np.ones(1, np.float32))
    dataset = data.Dataset(examples, examples, examples, *numbers, classes=10)
    images = dataset.normalise(jnp.asarray(examples.images))
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32),
        jax.eval_shape(model.init, jax.random.key(0), images)["params"],
    )
    masks = sparsejax.dense_masks(params)
    network = Network({}, model, dataset, {"params": params}, masks)
    FORMATS["onnx"].write(tmp_path / "net", network)
    found = FORMATS["onnx"].read(tmp_path / "net", network)(examples.images)
    expected = jax.jit(model.apply)({"params": params}, images)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def changed(format, change):
    """The format, which writes a network with other variables."""

    def write(path, network):
        format.write(path, network._replace(variables=jax.tree.map(change, network.variables)))

    return format._replace(write=write)


def fail(*_):
    raise RuntimeError("no converter for this\nand more")


@pytest.mark.parametrize(
    ("format", "message"),
    [
        (changed(FORMATS["safetensors"], lambda x: x * 1.001), r"logits .* differ .* by \d\.\de-0"),
        (changed(FORMATS["safetensors"], lambda x: x * jnp.nan), "logits .* differ .* by nan"),
        (FORMATS["safetensors"]._replace(write=fail), "MLP cannot be .*: no converter for this;"),
        (FORMATS["safetensors"]._replace(read=fail), "RuntimeError: no converter for this;"),
    ],
)
def test_what_is_not_the_same_network_is_not_left(format, message, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(interchange, "FORMATS", FORMATS | {"safetensors": format})
    monkeypatch.setattr("experiments.export.FORMATS", interchange.FORMATS)
    out = tmp_path / "net"
    out.write_text("what was there before")
    with pytest.raises(UserError, match=message):
        export(trained[0], "safetensors", out)
    assert list(tmp_path.iterdir()) == [out]
    assert out.read_text() == "what was there before"


def test_the_accuracy_is_that_of_the_summary(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    summary = records.read_json(run / "summary.json")
    records.write_json(run / "summary.json", summary | {"test_accuracy": 0.0312})
    with pytest.raises(UserError, match=r"network restored is .* of summary\.json 3\.12%"):
        export(run, "safetensors", tmp_path / "net")
    assert list(tmp_path.iterdir()) == [run]


def test_what_cannot_be_exported(trained, tmp_path, monkeypatch):
    folder, _ = trained
    with pytest.raises(UserError, match="'tiff' is unknown; allowed: onnx, safetensors, stablehlo"):
        export(folder, "tiff")
    with pytest.raises(UserError, match="nowhere: no run is there"):
        export(tmp_path / "nowhere", "onnx", tmp_path / "net")
    with pytest.raises(UserError, match="give a file in a folder that is there"):
        export(folder, "onnx", tmp_path / "nowhere" / "net")
    with pytest.raises(UserError, match="give a file in a folder that is there"):
        export(folder, "onnx", tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"needs onnxruntime: pip install 'sparsejax\[export\]'"):
        export(folder, "onnx")

    run = tmp_path / "run"
    shutil.copytree(folder, run)
    shutil.rmtree(run / "checkpoints" / "12")
    with pytest.raises(UserError, match="no checkpoint of its last step, 12"):
        export(run, "safetensors")
    (run / "summary.json").unlink()
    with pytest.raises(UserError, match="run is not finished"):
        export(run, "safetensors")
    config = records.read_json(run / "config.json")
    records.write_json(run / "config.json", config | {"procedure": {"name": "lottery"}})
    with pytest.raises(UserError, match="procedure lottery, which makes several networks"):
        export(run, "safetensors")
