"""Tables by their text, pictures by what was drawn and what lies on the disk."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from rich.console import Console

from experiments.figures import Curve, Result, connections_per_pixel, picture, table

DENSE = Result("dense", 0.97, {}, (1000, 1000), (3000, 3000), (4400, 4400))
RIGL = Result(
    "RigL",
    0.96125,
    {"a/kernel": (1234, 12345), "b/kernel": (66, 655)},
    (100.4, 1000),
    (1500, 3000),
    (441, 4400),
)


def rows(results):
    """The rows of a table as label -> cells."""
    console = Console(file=io.StringIO(), width=120)
    console.print(table(results))
    lines = (line.strip().split("  ") for line in console.file.getvalue().splitlines())
    cells = ([cell.strip() for cell in line if cell.strip()] for line in lines)
    return {line[0]: line[1:] for line in cells if line}


def test_table_shows_each_number_beside_its_ratio():
    got = rows([DENSE, RIGL])
    assert next(iter(got)) == "dense"
    assert got["dense"] == ["RigL"]
    assert got["test accuracy"] == ["97.00%", "96.12%"]
    assert got["kept weights"] == ["13,000", "100.0%", "1,300", "10.0%"]
    assert got["a/kernel"] == ["12,345", "100.0%", "1,234", "10.0%"]
    assert got["b/kernel"] == ["655", "100.0%", "66", "10.1%"]
    assert got["FLOPs of an example"] == ["1,000", "100.0%", "100", "10.0%"]
    assert got["in training"] == ["3,000", "100.0%", "1,500", "50.0%"]
    assert got["bytes"] == ["4,400", "100.0%", "441", "10.0%"]


def test_table_of_runs_that_mask_different_layers():
    other = RIGL._replace(name="other", weights={"a/kernel": (5, 12345), "c/kernel": (1, 10)})
    got = rows([RIGL, other])
    assert got["b/kernel"] == ["66", "10.1%", "655", "100.0%"]
    assert got["c/kernel"] == ["10", "100.0%", "1", "10.0%"]
    assert got["kept weights"] == ["1,310", "10.1%", "661", "5.1%"]


def test_table_of_dense_runs_alone_names_no_layer():
    got = rows([DENSE])
    assert got["test accuracy"] == ["97.00%"]
    assert "kept weights" not in got
    assert got["bytes"] == ["4,400", "100.0%"]


def test_connections_per_pixel_against_a_loop():
    mask = np.random.default_rng(0).random((2 * 3 * 2, 5)) < 0.5
    got = connections_per_pixel(mask, (2, 3, 2))
    for row, column in np.ndindex(2, 3):
        first = (row * 3 + column) * 2
        assert got[row, column] == mask[first].sum() + mask[first + 1].sum()


@pytest.mark.parametrize("shape", [(11, 5), (12,), (3, 3, 4, 5)])
def test_connections_per_pixel_refuses_other_layers(shape):
    with pytest.raises(ValueError, match="12 rows"):
        connections_per_pixel(np.ones(shape, bool), (2, 3, 2))


CURVES = [
    Curve("dense", [0, 10, 20], [0.1, 0.8, 0.9], [0, 0, 0]),
    Curve("RigL", [0, 10, 20], [0.1, 0.7, 0.85], [0.9, 0.9, 0.9]),
]
IMAGE = np.arange(64).reshape(8, 8)


def test_picture_is_written_whole(tmp_path):
    path = tmp_path / "picture.png"
    path.write_text("what stood here before")
    picture(path, "title", CURVES, {"start": IMAGE, "end": IMAGE.T})
    pixels = imread(path)
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 800
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]


def test_picture_shows_its_data(tmp_path):
    """As text in an SVG: headings, names, and the number in each of a few pixels."""
    path = tmp_path / "picture.svg"
    picture(path, "the title", CURVES, {"the image": IMAGE})
    svg = path.read_text()
    for text in ("the title", "dense", "RigL", "sparsity", "the image", "63"):
        assert f"<!-- {text} -->" in svg

    picture(path, "the title", CURVES[:1], {"many pixels": np.arange(900).reshape(30, 30)})
    svg = path.read_text()
    assert "<!-- many pixels -->" in svg
    assert "<!-- RigL -->" not in svg
    assert "<!-- 63 -->" not in svg


def test_picture_draws_each_run_in_both_plots(tmp_path, monkeypatch):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kw: (figures.append(self), save(self, *args, **kw))
    )
    picture(tmp_path / "picture.png", "title", CURVES, {"image": IMAGE, "other": IMAGE // 2})
    top, bottom, image, other, _ = figures[0].axes
    for i, run in enumerate(CURVES):
        np.testing.assert_array_equal(top.lines[i].get_xydata().T, [run.steps, run.accuracy])
        np.testing.assert_array_equal(bottom.lines[i].get_xydata().T, [run.steps, run.sparsity])
    np.testing.assert_array_equal(image.images[0].get_array(), IMAGE)
    assert image.images[0].get_clim() == other.images[0].get_clim() == (0, 63)  # one scale


def test_a_picture_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "picture.png"
    path.write_text("what stood here before")
    with pytest.raises(ValueError):
        picture(path, "title", [CURVES[0]._replace(sparsity=[0.0])], {"image": IMAGE})
    assert path.read_text() == "what stood here before"
    unknown = tmp_path / "picture.unknown"
    with pytest.raises(ValueError, match="unknown"):
        picture(unknown, "title", CURVES, {"image": IMAGE})
    (tmp_path / "directory.png").mkdir()
    with pytest.raises(IsADirectoryError):
        picture(tmp_path / "directory.png", "title", CURVES, {"image": IMAGE})
    assert {file.name for file in tmp_path.iterdir()} == {"picture.png", "directory.png"}


@pytest.mark.parametrize(("curves", "images"), [(CURVES * 4, {"image": IMAGE}), (CURVES, {})])
def test_picture_refuses_what_it_cannot_show(tmp_path, curves, images):
    with pytest.raises(ValueError, match="1 to 7 curves"):
        picture(tmp_path / "picture.png", "title", curves, images)
