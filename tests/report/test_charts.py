from __future__ import annotations

import xml.etree.ElementTree as Xml

import numpy as np
import pytest

from f5_tts.report.charts import Chart, Frame, Line, draw_picture, path_of, ticks

FRAME = Frame(left=0, right=10, low=0, high=1)  # 300 pixels wide from 50 on, 158 high above 168


def line(values: list[float], **more: object) -> Line:
    fields = {"name": "a <run>", "color": 0, **more}
    return Line(x=np.arange(len(values), dtype=float), y=np.array(values), **fields)


@pytest.mark.parametrize(
    "low, high, expected",
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.13, 0.52, [0.2, 0.3, 0.4, 0.5]), (-3, 90, [0, 20, 40, 60, 80])],
)
def test_axes_have_round_numbers(low: float, high: float, expected: list[float]):
    assert ticks(low, high) == expected


def test_a_value_that_is_not_finite_leaves_a_gap():
    assert path_of(FRAME, np.array([0.0, 5, 10]), np.array([0.0, np.nan, 1])) == "M50.0 168.0M350.0 10.0"
    assert path_of(FRAME, np.array([0.0, 5]), np.array([0.0, 0.5])) == "M50.0 168.0L200.0 89.0"


def test_everything_is_inside_the_frame_the_band_and_single_updates_too():
    frame = Frame.around([line([1.0, 2.0], spread=np.array([0.5, np.nan]), dots=np.array([0.0, 3.0]))])
    assert (frame.left, frame.right) == (0, 1)
    assert frame.low == pytest.approx(0 - 0.06 * 3) and frame.high == pytest.approx(3 + 0.06 * 3)


def test_lines_without_a_finite_value_or_of_one_update_can_be_drawn():
    assert "no finite value" in Chart(title="t", metric="m", lines=[line([float("nan")])]).svg()
    Xml.fromstring(Chart(title="t", metric="m", lines=[line([2.0])]).svg())


def test_a_chart_says_what_it_shows_and_text_is_never_markup():
    chart = Chart(title="reward & more", metric="m", lines=[line([1.0, 0.25])], alarms=[(1, "<b>")])
    svg = Xml.fromstring(chart.svg())
    expected = "reward & more. a <run>: from 1 at update 0 to 0.25 at update 1; alarm <b> at update 1."
    assert svg.attrib["aria-label"] == expected
    assert [title.text for title in svg.iter("title")] == ["alarm <b> from update 1 on", expected[15:62]]


def test_a_long_line_is_thinned_out_and_keeps_its_ends():
    svg = Xml.fromstring(Chart(title="t", metric="m", lines=[line([float(i) for i in range(5000)])]).svg())
    (path,) = (node.attrib["d"] for node in svg.iter("path") if node.attrib["class"] == "line")
    assert path.count("L") == 199 and path.startswith("M50.0 ") and "L350.0 " in path


def test_a_picture_has_all_charts_with_titles_and_the_names_of_the_runs():
    charts = [Chart(title=f"chart {index}", metric="m", lines=[line([1.0, 2.0])]) for index in range(3)]
    picture = Xml.fromstring(draw_picture(charts, ["nft", "draft"], ".line { fill: none; }"))
    name = "{http://www.w3.org/2000/svg}"
    texts = [node.text for node in picture.iter(f"{name}text")]
    assert {"nft", "draft", "chart 0", "chart 1", "chart 2"} <= set(texts)
    assert picture.attrib["viewBox"] == f"0 0 740 {30 + 2 * 230}"
