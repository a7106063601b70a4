"""The plot of a comparison: a line a method, bars of one deviation, several networks dashed."""

import pytest
from matplotlib.figure import Figure
from PIL import Image

from training.plot import Point, draw_panel, plot

POINTS = [
    Point("PCK", "dual", 500, 40.0, 1.0, True),
    Point("PCK", "dual", 100, 20.0, 2.0, True),
    Point("PCK", "supervised", 100, 10.0, 3.0, False),
]


def test_a_method_is_one_line_by_rising_labels_with_its_deviations():
    axes = Figure().subplots()
    draw_panel(axes, "PCK", POINTS)
    dual, supervised = axes.containers  # the best first, as in the legend
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["dual", "supervised"]
    assert list(dual.lines[0].get_ydata()) == [20.0, 40.0]
    assert dual.lines[0].get_xdata() == pytest.approx([100, 500], rel=0.02)
    bars = [path.vertices[:, 1].tolist() for path in dual.lines[2][0].get_paths()]
    assert bars == [[18.0, 22.0], [39.0, 41.0]]
    assert (dual.lines[0].get_linestyle(), supervised.lines[0].get_linestyle()) == ("--", "-")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["100", "500"]


def test_each_panel_has_axes_of_its_own(tmp_path):
    plot(POINTS, tmp_path / "one.png")
    plot([*POINTS, Point("AP", "dual", 100, 1.0, 0.0, True)], tmp_path / "two.png")
    one, two = (Image.open(tmp_path / name) for name in ("one.png", "two.png"))
    assert (two.width, two.height) == (one.width, 2 * one.height)
