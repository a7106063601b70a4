"""The pictures of a comparison: what is drawn where, several networks apart from single ones."""

import pytest
from matplotlib.figure import Figure
from PIL import Image

from semipose.training.experiments.plot import Curve, Point, draw_curves, draw_labels, draw_parameters, plot

POINTS = [
    Point("PCK", "dual", 500, 40.0, 1.0, True),
    Point("PCK", "dual", 100, 20.0, 2.0, True),
    Point("PCK", "supervised", 100, 10.0, 3.0, False),
]


def test_a_method_is_one_line_by_rising_labels_with_its_deviations():
    axes = Figure().subplots()
    draw_labels(axes, POINTS)
    dual, supervised = axes.containers  # the best first, as in the legend
    assert axes.get_legend_handles_labels()[1] == ["dual", "supervised"]
    assert list(dual.lines[0].get_ydata()) == [20.0, 40.0]
    assert dual.lines[0].get_xdata() == pytest.approx([100, 500], rel=0.02)
    bars = [path.vertices[:, 1].tolist() for path in dual.lines[2][0].get_paths()]
    assert bars == [[18.0, 22.0], [39.0, 41.0]]
    assert (dual.lines[0].get_linestyle(), supervised.lines[0].get_linestyle()) == ("--", "-")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["100", "500"]


def test_each_panel_has_axes_of_its_own(tmp_path):
    plot(POINTS, tmp_path / "one.png", draw_labels)
    plot([*POINTS, Point("AP", "dual", 100, 1.0, 0.0, True)], tmp_path / "two.png", draw_labels)
    one, two = (Image.open(tmp_path / name) for name in ("one.png", "two.png"))
    assert (two.width, two.height) == (one.width, 2 * one.height)


def test_a_method_is_one_mark_at_its_trained_parameters_the_best_first():
    axes = Figure().subplots()
    single = Point("AP", "adaptive", 15_376_721, 42.9, 0.3, False)
    draw_parameters(axes, [single, Point("AP", "dual", 30_753_442, 44.6, 0.5, True)])
    dual, adaptive = axes.containers
    assert axes.get_legend_handles_labels()[1] == ["dual (30.8 M)", "adaptive (15.4 M)"]
    assert list(adaptive.lines[0].get_xdata()) == pytest.approx([15.376721])
    assert list(adaptive.lines[0].get_ydata()) == [42.9]
    assert dual.lines[0].get_markerfacecolor() == "none"
    assert adaptive.lines[0].get_markerfacecolor() != "none"
    assert "millions" in axes.get_xlabel()


def test_marks_of_methods_with_as_many_parameters_stand_apart_around_their_place():
    axes = Figure().subplots()
    draw_parameters(axes, [Point("AP", f"method {3 - k}", 4_000_000, k, 1.0, False) for k in (3, 2, 1)])
    places = [float(container.lines[0].get_xdata()[0]) for container in axes.containers]
    assert places == sorted(set(places))
    assert places[1] == pytest.approx(4.0)
    assert places[0] > 3.8
    assert places[2] < 4.2


def test_a_curve_is_a_line_in_a_band_of_one_deviation():
    axes = Figure().subplots()
    draw_curves(axes, [Curve("loss", "adaptive", (10, 20), (3.0, 2.0), (0.5, 0.25), False)])
    (line,) = axes.get_lines()
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([10, 20], [3.0, 2.0])
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert {round(float(y), 6) for y in heights} == {2.5, 3.5, 1.75, 2.25}
