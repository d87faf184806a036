"""What TensorBoard would read of a run's hyperparameters, from the protocol buffers on the disk."""

import struct

import pytest
from tensorboardX.proto.api_pb2 import DataType, Status
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from experiments import hparams

SUMMARY = {
    "test_accuracy": 0.75,
    "validation_accuracy": 0.5,
    "sparsity": 0.9,
    "kept": 1234,
    "step": 600,
}


def events(path):
    """The events in a file: each is its length, a checksum, itself, a checksum."""
    data, found, at = path.read_bytes(), [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        found.append(Event.FromString(data[at + 12 : at + 12 + length]))
        at += 16 + length
    return found


def read(folder):
    """The HParams data by their tags and the scalars, of all the event files in a folder."""
    data, scalars = {}, {}
    for path in sorted(folder.iterdir()):
        for event in events(path):
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "hparams":
                    content = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                    data.setdefault(value.tag, []).append(content)
                elif value.tag.startswith("summary/"):
                    scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    return data, scalars


def test_a_session_is_written_once_with_values_and_results(tmp_path):
    config = {"seed": 3, "rule": {"name": "rigl", "sparsity": 0.9}, "none": None, "widths": [3, 4]}
    hparams.write(tmp_path, config, SUMMARY | {"test_accuracy": 0.1})
    hparams.write(tmp_path, config | {"flag": True}, SUMMARY)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["events.out.tfevents.hparams"]
    data, scalars = read(tmp_path / "tensorboard")
    assert {tag: len(found) for tag, found in data.items()} == {
        "_hparams_/experiment": 1,
        "_hparams_/session_start_info": 1,
        "_hparams_/session_end_info": 1,
    }
    values = data["_hparams_/session_start_info"][0].session_start_info.hparams
    assert {key: value.WhichOneof("kind") for key, value in values.items()} == {
        "seed": "number_value",
        "rule.name": "string_value",
        "rule.sparsity": "number_value",
        "none": "string_value",
        "widths": "string_value",
        "flag": "bool_value",
    }
    assert values["seed"].number_value == 3
    assert values["rule.name"].string_value == "rigl"
    assert values["none"].string_value == "null"
    assert values["widths"].string_value == "[3, 4]"
    experiment = data["_hparams_/experiment"][0].experiment
    assert {info.name: info.type for info in experiment.hparam_infos}["rule.sparsity"] == (
        DataType.Value("DATA_TYPE_FLOAT64")
    )
    assert {info.name.tag for info in experiment.metric_infos} == scalars.keys()
    end = data["_hparams_/session_end_info"][0].session_end_info
    assert end.status == Status.Value("STATUS_SUCCESS")
    assert scalars["summary/test_accuracy"] == [(600, 0.75)]
    assert scalars["summary/sparsity"] == [(600, pytest.approx(0.9))]
    assert scalars["summary/kept"] == [(600, 1234)]
