"""Line charts as SVG that takes its colors from the page around it, so that they follow dark mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
NUM_COLORS = 6  # colors of the style sheet, --run-1 to --run-6
WIDTH, HEIGHT = 370, 200  # in units of the picture, which are about pixels on a phone
LEFT, RIGHT, TOP, BOTTOM = 50, 20, 10, 32  # margins
TITLE = 30  # height of a title in a picture
MAX_POINTS = 200  # of a line; longer ones are thinned out
MARGIN = 0.06  # of the range of values, above and below the lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """Line of a chart: values over updates, with their spread and the values of single updates."""

    name: str
    color: int  # position among the runs of the page
    x: Numbers
    y: Numbers  # NaN: a gap
    spread: Numbers | None = None  # half the height of the band around the line
    dots: Numbers | None = None  # values of single updates, of which `y` is a moving average

    @property
    def extremes(self) -> Numbers:
        """Return all values that must fit into the chart."""
        half = np.zeros_like(self.y) if self.spread is None else np.nan_to_num(self.spread)
        values = np.concatenate([self.y - half, self.y + half, self.y if self.dots is None else self.dots])
        return values[np.isfinite(values)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Chart of one metric, with a vertical line at each alarm."""

    title: str
    metric: str  # name in metrics.jsonl
    lines: Sequence[Line]
    alarms: Sequence[tuple[float, str]] = field(default_factory=list)  # update and name

    @property
    def description(self) -> str:
        """Say in a sentence what the lines show."""
        parts = [f"{line.name}: {ends(line)}" for line in self.lines]
        alarms = [f"alarm {name} at update {update:g}" for update, name in self.alarms]
        return f"{self.title}. {'; '.join(parts + alarms)}."

    def svg(self) -> Markup:
        """Draw the chart."""
        frame = Frame.around(self.lines)
        shapes = [grid(frame), *(draw_alarm(frame, *alarm) for alarm in self.alarms)]
        shapes += [draw_line(frame, line) for line in self.lines]
        return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
            WIDTH, HEIGHT, self.description, Markup("").join(shapes)
        )


def draw_picture(charts: Sequence[Chart], runs: Sequence[str], style: str) -> Markup:
    """Draw charts in two columns as a picture of its own, with the names of the runs above them."""
    height = TITLE + HEIGHT
    total = TITLE + height * math.ceil(len(charts) / 2)
    names = [
        Markup('<g class="run-{}"><path class="line" d="M{} 14h24"/><text x="{}" y="18">{}</text></g>').format(
            index % NUM_COLORS + 1, LEFT + 120 * index, LEFT + 120 * index + 30, name
        )
        for index, name in enumerate(runs)
    ]
    cells = [
        Markup('<text x="{}" y="{}">{}</text><svg x="{}" y="{}" width="{}" height="{}">{}</svg>').format(
            x + LEFT, y + 20, chart.title, x, y + TITLE, WIDTH, HEIGHT, chart.svg()
        )
        for index, chart in enumerate(charts)
        for x, y in [(WIDTH * (index % 2), TITLE + height * (index // 2))]
    ]
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {0} {1}" width="{0}" height="{1}">'
        '<style>{2}</style><rect class="paper" width="{0}" height="{1}"/>{3}</svg>\n'
    ).format(2 * WIDTH, total, Markup(style), Markup("").join([*names, *cells]))


def ends(line: Line) -> str:
    """Describe a line by its first and last value."""
    (known,) = np.nonzero(np.isfinite(line.y))
    if not len(known):
        return "no finite value"
    first, last = known[0], known[-1]
    return f"from {line.y[first]:.3g} at update {line.x[first]:g} to {line.y[last]:.3g} at update {line.x[last]:g}"


@dataclass(frozen=True, slots=True)
class Frame:
    """Ranges of a chart's axes."""

    left: float
    right: float
    low: float
    high: float

    @classmethod
    def around(cls, lines: Sequence[Line]) -> Frame:
        """Return the frame that holds all lines; from 0 to 1 without a finite value."""
        x = np.concatenate([line.x for line in lines])
        y = np.concatenate([line.extremes for line in lines])
        low, high = (float(y.min()), float(y.max())) if len(y) else (0.0, 1.0)
        room = MARGIN * (high - low) or 0.1 * abs(high) or 0.1
        return cls(float(x.min()), max(float(x.max()), float(x.min()) + 1), low - room, high + room)

    def x(self, value: float) -> float:
        """Return the horizontal position of an update."""
        return LEFT + (value - self.left) / (self.right - self.left) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Return the vertical position of a value."""
        return HEIGHT - BOTTOM - (value - self.low) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """List round numbers in a range: multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(factor * power for factor in (1, 2, 5, 10) if (high - low) / (factor * power) <= most)
    return [round(number * step, 12) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def grid(frame: Frame) -> Markup:
    """Draw the axes with their numbers."""
    bottom = HEIGHT - BOTTOM
    rows = [
        Markup('<path class="grid" d="M{} {:.1f}H{}"/><text class="y" x="{}" y="{:.1f}">{:g}</text>').format(
            LEFT, frame.y(value), WIDTH - RIGHT, LEFT - 6, frame.y(value) + 4, value
        )
        for value in ticks(frame.low, frame.high)
    ]
    columns = [
        Markup('<text class="x" x="{:.1f}" y="{}">{:g}</text>').format(frame.x(value), bottom + 14, value)
        for value in ticks(frame.left, frame.right)
        if value == int(value)
    ]
    label = Markup('<text class="x" x="{}" y="{}">update</text>').format((LEFT + WIDTH - RIGHT) // 2, HEIGHT - 4)
    return Markup("").join([*rows, *columns, label])


def draw_line(frame: Frame, line: Line) -> Markup:
    """Draw a line with its band, and the values of single updates as dots."""
    kept = np.unique(np.linspace(0, len(line.x) - 1, min(len(line.x), MAX_POINTS)).round().astype(int))
    x, y = line.x[kept], line.y[kept]
    shapes = []
    if line.spread is not None:
        spread = line.spread[kept]
        inside = np.isfinite(y) & np.isfinite(spread)
        around = [*points(frame, x[inside], (y + spread)[inside])]
        around += [*points(frame, x[inside], (y - spread)[inside])][::-1]
        shapes.append(Markup('<polygon class="band" points="{}"/>').format(" ".join(around)))
    if line.dots is not None:
        dots = "".join(f"M{point}h0" for point in points(frame, x, line.dots[kept]))
        shapes.append(Markup('<path class="dots" d="{}"/>').format(dots))
    shapes.append(Markup('<path class="line" d="{}"/>').format(path_of(frame, x, y)))
    if line.dots is None:
        dots = "".join(f"M{point}h0" for point in points(frame, x, y))
        shapes.append(Markup('<path class="measured" d="{}"/>').format(dots))
    return Markup('<g class="run-{}"><title>{}</title>{}</g>').format(
        line.color % NUM_COLORS + 1, f"{line.name}: {ends(line)}", Markup("").join(shapes)
    )


def points(frame: Frame, x: Numbers, y: Numbers) -> list[str]:
    """Return the positions of finite values."""
    return [f"{frame.x(a):.1f} {frame.y(b):.1f}" for a, b in zip(x, y, strict=True) if math.isfinite(b)]


def path_of(frame: Frame, x: Numbers, y: Numbers) -> str:
    """Connect values by a path, with a gap where one is not finite."""
    commands, is_open = [], False
    for a, b in zip(x, y, strict=True):
        if math.isfinite(b):
            commands.append(f"{'L' if is_open else 'M'}{frame.x(a):.1f} {frame.y(b):.1f}")
        is_open = math.isfinite(b)
    return "".join(commands)


def draw_alarm(frame: Frame, update: float, name: str) -> Markup:
    """Draw a vertical line at the update where an alarm began."""
    return Markup('<path class="alarm" d="M{:.1f} {}V{}"><title>{}</title></path>').format(
        frame.x(update), TOP, HEIGHT - BOTTOM, escape(f"alarm {name} from update {update:g} on")
    )
