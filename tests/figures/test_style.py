"""The look of the figures, and the files that each leaves."""

import io
import json
from pathlib import Path

import matplotlib
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from figures.style import METHOD_COLORS, METHOD_MARKERS, add_title, save_figure
from rft_diagnose.style import BLUE, GREEN, HOUSE_STYLE, ORANGE, house_style

TABLE = pd.DataFrame({"epoch": [0, 1, 2], "reward": [0.1, 1 / 3, 1e-17], "method": "RFT"})


def draw() -> Figure:
    with house_style():
        figure = Figure(figsize=(3, 2), layout="constrained")
        axes = figure.subplots()
        axes.plot(TABLE["epoch"], TABLE["reward"], label="$x$")
        axes.legend()
    return figure


def test_writes_the_four_files_and_returns_them(tmp_path: Path):
    stem = tmp_path / "new" / "folder" / "figure3.sgd"  # a dot in the name is no suffix
    runs = [{"path": "outputs/a", "experiment_name": "a"}]
    paths = save_figure(draw(), stem, TABLE, runs, scale="laptop", seeds=[1, 2])
    assert [path.name for path in paths] == [
        f"figure3.sgd.{suffix}" for suffix in ("png", "pdf", "csv", "json")
    ]
    assert sorted(stem.parent.iterdir()) == sorted(paths)  # and nothing temporary
    assert json.loads(paths[3].read_text()) == {
        "figure": "figure3.sgd",
        "scale": "laptop",
        "seeds": [1, 2],
        "runs": runs,
    }
    assert paths[1].read_bytes().startswith(b"%PDF")


def test_png_has_150_dots_an_inch(tmp_path: Path):
    png = save_figure(draw(), tmp_path / "f", TABLE, [])[0]
    with Image.open(io.BytesIO(png.read_bytes())) as image:
        assert image.size == (450, 300)


def test_csv_holds_exactly_the_plotted_numbers(tmp_path: Path):
    csv = save_figure(draw(), tmp_path / "f", TABLE, [])[2]
    pd.testing.assert_frame_equal(pd.read_csv(csv), TABLE, check_exact=True, check_dtype=False)


def test_same_data_same_bytes_whatever_the_user_settings_and_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = save_figure(draw(), tmp_path / "a" / "f", TABLE, [])
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    with matplotlib.rc_context({"font.size": 30, "savefig.dpi": 20, "savefig.facecolor": "red"}):
        second = save_figure(draw(), tmp_path / "b" / "f", TABLE, [])
    figure = draw()
    save_figure(figure, tmp_path / "c" / "f", TABLE, [])
    third = save_figure(figure, tmp_path / "d" / "f", TABLE, [])
    for one, two, three in zip(first, second, third, strict=True):
        assert one.read_bytes() == two.read_bytes() == three.read_bytes(), one.name


def test_a_figure_replaces_the_one_before(tmp_path: Path):
    save_figure(draw(), tmp_path / "f", TABLE, [])
    paths = save_figure(draw(), tmp_path / "f", TABLE.head(1), [])
    assert len(pd.read_csv(paths[2])) == 1
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_a_failing_picture_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = save_figure(draw(), tmp_path / "f", TABLE, [])
    before = [path.read_bytes() for path in paths]
    broken = draw()
    monkeypatch.setattr(broken, "savefig", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_figure(broken, tmp_path / "f", TABLE.head(1), [])
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize("inches", [2.0, 4.1, 9.6])
def test_long_titles_wrap_within_the_figure(inches: float):
    figure = Figure(figsize=(inches, 3), layout="constrained")
    figure.subplots()
    add_title(figure, "Reward of each input under each model, seed 0 (partial: 2 of 3 runs missing)")
    figure.draw_without_rendering()
    (title,) = figure.texts
    box = title.get_window_extent()
    assert 0 <= box.x0 and box.x1 <= figure.bbox.x1
    lengths = [len(line) for line in title.get_text().split("\n")]
    assert len(lengths) == 1 or min(lengths) > max(lengths) / 3


def test_house_style_is_local():
    with matplotlib.rc_context({"font.size": 30}):
        with house_style():
            assert matplotlib.rcParams["font.size"] == HOUSE_STYLE["font.size"]
        assert matplotlib.rcParams["font.size"] == 30


def test_methods_differ_without_colour_and_under_colour_blindness():
    assert len(set(METHOD_MARKERS.values())) == len(METHOD_MARKERS)
    assert METHOD_MARKERS.keys() == METHOD_COLORS.keys()
    # The palette's blue and orange-red differ in the blue channel, which red-green blindness leaves alone.
    assert abs(to_rgb(METHOD_COLORS["RFT"])[2] - to_rgb(METHOD_COLORS["SFT"])[2]) > 0.5
    assert len({BLUE, ORANGE, GREEN}) == 3
