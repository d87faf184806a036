"""What the benchmark of inference runs are the networks that were trained."""

import io

import jax
import numpy as np
import pytest
from rich.console import Console

import sparsejax
from experiments import data, models
from experiments.benchmarks import inference
from experiments.benchmarks.pruned_networks import Setting, Trained, cut, train_network, units
from experiments.interchange import FORMATS, Network
from sparsejax import formats
from sparsejax.kernels import index

DIGITS = Setting(
    {"name": "digits"},
    {"name": "lenet300", "widths": (24, 16)},
    "widths",
    "neurons",
    {"weights": 0.8, "units": 0.75},
    batch_size=32,
    steps_per_dispatch=10,
)


def classified(network):
    """The logits of the test examples, in NumPy."""
    x = np.asarray(network.dataset.normalise(network.dataset.test.images))
    x = x.reshape(len(x), -1)
    for i, w in enumerate(kernels(network)):
        x = np.maximum(x, 0) if i else x
        x = x @ w + np.asarray(network.variables["params"][f"Dense_{i}"]["bias"])
    return x


def accuracy(network):
    return (classified(network).argmax(-1) == np.asarray(network.dataset.test.labels)).mean()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A network of a moment's training whose neurons are pruned, and two of none."""
    folder, console = tmp_path_factory.mktemp("runs"), Console(file=io.StringIO())
    trained = train_network(DIGITS, "units", 40, folder, console=console)
    network = trained.network
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: rng.normal(0, 0.3, p.shape).astype(np.float32), network.variables["params"]
    )
    masks = {
        "dense": sparsejax.dense_masks(params),
        "weights": sparsejax.magnitude_masks(params, 0.8),
    }
    others = {
        kind: network._replace(
            variables={"params": sparsejax.apply_masks(params, mask), "batch_stats": {}}, masks=mask
        )
        for kind, mask in masks.items()
    }
    return {
        **{kind: Trained(net, accuracy(net), trained.groups) for kind, net in others.items()},
        "units": trained,
    }


@pytest.fixture(scope="module")
def made(found, tmp_path_factory):
    """The programs. To load what writes ONNX takes long, and other tests do: here it is not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "FORMATS", FORMATS | {"onnx": FORMATS["safetensors"]})
        return inference.programs(found, DIGITS, tmp_path_factory.mktemp("files"))


def kernels(network):
    return [np.asarray(network.variables["params"][f"Dense_{i}"]["kernel"]) for i in range(3)]


def kept(network):
    """Of each kernel the places that its mask keeps."""
    masks, shapes = network.masks, [w.shape for w in kernels(network)]
    return [np.broadcast_to(masks[f"Dense_{i}"]["kernel"], shape) for i, shape in enumerate(shapes)]


def test_neurons_are_pruned_as_a_whole(found):
    first, second, last = kept(found["units"].network)
    assert [mask.any(0).sum() for mask in (first, second)] == [6, 4]
    assert [mask.any(1).sum() for mask in (second, last)] == [6, 4]
    network = found["units"].network
    for w, mask in zip(kernels(network), kept(network), strict=True):
        assert not w[~mask].any()


def test_all_programs_give_the_networks_they_are_made_of(found, made):
    right = inference.accuracies(made, found)
    for (kind, program), share in zip(made, right, strict=True):
        got = inference.logits(program.forward, data.digits())
        expected = classified(found[kind].network)
        np.testing.assert_allclose(got, expected, atol=1e-4, err_msg=f"{kind}, {program.name}")
        assert share == accuracy(found[kind].network)


def test_the_bytes_are_those_of_what_is_stored(found, made):
    memory = {f"{kind} {program.name}": program.memory for kind, program in made}
    dense = 4 * (64 * 24 + 24 + 24 * 16 + 16 + 16 * 10 + 10)
    small = 4 * (64 * 6 + 6 + 6 * 4 + 4 + 4 * 10 + 10)
    biases = 4 * (24 + 16 + 10)
    assert memory["dense dense"] == memory["weights masked"] == memory["units masked"] == dense
    assert memory["units after surgery"] == small
    for kind in ("weights", "units"):
        both = zip(kernels(found[kind].network), kept(found[kind].network), strict=True)
        sparse = [index(formats.CSC.from_dense(w, mask)) for w, mask in both]
        assert memory[f"{kind} formats"] == biases + sum(w.nbytes for w in sparse) < dense
    assert memory["dense onnxruntime"] is None
    files = {f"{kind} {program.name}": program.file for kind, program in made}
    assert files["weights formats"] == files["weights masked"] < files["dense dense"]
    assert dense < files["dense dense"] < dense + 4000
    assert small < files["units after surgery, onnxruntime"] < files["dense onnxruntime"]


def test_another_network_is_refused(found, made):
    kind, program = made[-1]
    wrong = program._replace(forward=lambda images: program.forward(images) + 0.01)
    with pytest.raises(ValueError, match="units, after surgery, onnxruntime: the logits differ by"):
        inference.accuracies([*made[:-1], (kind, wrong)], found)
    other = found | {"dense": found["dense"]._replace(accuracy=0.05)}
    with pytest.raises(ValueError, match=r"dense, dense: the accuracy is .*, .* it was 5\.00%"):
        inference.accuracies(made[:1], other)


def test_channels_are_cut_out_of_a_residual_network():
    dataset = data.generated(height=8, width=8, test=3)
    model = models.resnet20(width=4)
    images = dataset.normalise(dataset.test.images)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32) - 0.3 * (leaf.ndim > 1),
        jax.eval_shape(model.init, jax.random.key(0), images),
    )
    groups = units(model, variables, dataset)
    assert [group.units for group in groups] == [4] * 3 + [8] * 3 + [16] * 3
    alive = [np.arange(group.units) % (i + 1) == 0 for i, group in enumerate(groups)]

    @jax.jit
    def masked(params):
        masks = sparsejax.unit_masks(groups, alive, params)
        return masks, sparsejax.apply_masks(params, masks)

    masks, variables["params"] = masked(variables["params"])
    config = {"model": {"name": "resnet20", "width": 4}}
    network = Network(config, model, dataset, variables, masks)
    small = cut(network, groups, "inner")
    assert small.config["model"]["inner"] == (4, 2, 2, 2, 2, 2, 3, 2, 2)
    outputs = [inference.compiled(n)(n.variables, dataset.test.images) for n in (network, small)]
    np.testing.assert_allclose(*outputs, rtol=1e-4)
    stored = inference.stored(network)
    block, dense = stored["params"]["Block_5"], variables["params"]["Block_5"]
    for name in ("Conv_0", "Conv_1"):
        kernel = block[name]["kernel"]
        assert kernel.nbytes < dense[name]["kernel"].nbytes / 2
        np.testing.assert_array_equal(kernel.todense(), dense[name]["kernel"])
    assert block["BatchNorm_0"]["scale"] is dense["BatchNorm_0"]["scale"]
