"""Self-contained HTML reports: figures, tables, curves and videos in one file that needs no network."""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

_COLOURS = ("#3b6fb5", "#d1772c", "#3f9463", "#a8477c", "#7a6bb0", "#8a7a3c")
_GREY = "#7d8590"

_STYLE = """
:root { color-scheme: light dark; --line: #d5d9de; --soft: #f4f6f8; --ink: #1c2733; --grey: #66717d; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); }
body { max-width: 62rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .2rem; }
p.notice { background: #fdf3d8; color: #5c4305; border-left: 4px solid #d9a521; padding: .6rem 1rem; }
pre { background: var(--soft); padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; }
p.lead { color: var(--grey); margin-top: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .9rem; }
.card { background: var(--soft); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; }
.card b { display: block; font-size: 1.5rem; }
.card span { color: var(--grey); font-size: .9rem; }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
div.wide { overflow-x: auto; }
th, td { text-align: left; padding: .4rem .7rem; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--grey); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
figure { margin: 1rem 0; }
figcaption { color: var(--grey); font-size: .9rem; }
svg { width: 100%; height: auto; }
video { width: 100%; border-radius: 8px; border: 1px solid var(--line); }
.videos { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .9rem; }
code { background: var(--soft); padding: .1rem .3rem; }
@media (prefers-color-scheme: dark) {
  :root { --line: #39424c; --soft: #1b2129; --ink: #e6eaee; --grey: #98a3af; }
  body { background: #12171d; }
  figure.chart { background: #fff; border-radius: 6px; }
}
"""


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        label: Name in the legend; empty for none.
        x: Positions.
        y: Values.
        low: Lower end of the interval at each position, if there is one.
        high: Upper end of the interval.
        markers: matplotlib's marker at each position; a dot where there are few when left out.
        dashed: Draw a thin dashed line, for what the others are to be compared with.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    markers: Sequence[str] | None = None
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One of several small charts in a figure.

    Attributes:
        title: Above it.
        curves: At least one.
        y_range: Of the axis; from the values when left out.
        log_y: Whether the axis is logarithmic.
    """

    title: str
    curves: Sequence[Curve]
    y_range: tuple[float, float] | None = None
    log_y: bool = False


@dataclass
class Report:
    """A report that grows section by section and is written once.

    Attributes:
        title: Its heading.
        lead: Sentence under the heading.
        charts: SVG of every chart so far, for other places.
    """

    title: str
    lead: str = ""
    charts: list[str] = field(default_factory=list)
    _parts: list[str] = field(default_factory=list)

    def section(self, title: str, text: str = "", level: int = 2) -> None:
        """Begin a section; one of level 3 is part of the section before it."""
        self._parts.append(f"<h{level}>{html.escape(title)}</h{level}>")
        if text:
            self._parts.append(f"<p>{html.escape(text)}</p>")

    def cards(self, values: Mapping[str, str]) -> None:
        """Show a few key figures: label to value."""
        cards = "".join(
            f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>'
            for label, value in values.items()
        )
        self._parts.append(f'<div class="cards">{cards}</div>')

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Show a table; columns of numbers stand right-aligned."""
        numeric = [_numeric([str(row[place]) for row in rows]) for place in range(len(columns))]

        def line(tag: str, values: Sequence[object]) -> str:
            kinds = [' class="number"' if number else "" for number in numeric]
            cells = [
                f"<{tag}{kind}>{html.escape(str(value))}</{tag}>" for kind, value in zip(kinds, values, strict=True)
            ]
            return f"<tr>{''.join(cells)}</tr>"

        head = line("th", columns)
        body = "".join(line("td", row) for row in rows)
        self._parts.append(f'<div class="wide"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>')

    def chart(
        self,
        curves: Sequence[Curve],
        *,
        x: str,
        y: str,
        caption: str = "",
        log_y: bool = False,
        y_range: tuple[float, float] | None = None,
        spans: Sequence[tuple[str, float, float]] = (),
    ) -> None:
        """Show curves over one axis, with their intervals as bands.

        Args:
            curves: What to show.
            x: Label of the axis.
            y: Label of the axis.
            caption: Sentence under the chart.
            log_y: Whether the axis is logarithmic.
            y_range: Of the axis; from the values when left out.
            spans: Stretches of the x axis, each with name, start and end.
        """
        figure, axes = plt.subplots(figsize=(8.4, 3.6))
        _draw(axes, Panel("", curves, y_range, log_y))
        _name_spans(axes, spans)
        self._figure(figure, axes, x, y, legend=len(curves) > 1, caption=caption)

    def panels(self, panels: Sequence[Panel], *, x: str, caption: str = "", columns: int = 3) -> None:
        """Show small charts over the same kind of axis, side by side."""
        rows = -(-len(panels) // columns)
        figure, grid = plt.subplots(rows, columns, figsize=(8.4, 2.2 * rows + 0.2), sharex=True, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place >= len(panels):
                axes.remove()
                continue
            _draw(axes, panels[place])
            axes.set_title(panels[place].title, fontsize=10, loc="left")
            axes.tick_params(labelsize=8, labelbottom=True)
            if sum(bool(curve.label) for curve in panels[place].curves) > 1:
                axes.legend(frameon=False, fontsize=7)
            if place + columns >= len(panels):
                axes.set_xlabel(x, fontsize=9)
        self._add(figure, caption)

    def bars(
        self,
        groups: Sequence[str],
        series: Mapping[str, Sequence[tuple[float, float, float]]],
        *,
        y: str,
        caption: str = "",
        reference: Collection[str] = (),
    ) -> None:
        """Show grouped bars with intervals.

        Args:
            groups: Names under the groups.
            series: Series name to one `(value, low, high)` per group; NaN leaves a gap.
            y: Label of the axis.
            caption: Sentence under the chart.
            reference: Series from elsewhere: drawn hatched and without interval.
        """
        figure, axes = plt.subplots(figsize=(8.4, 3.6))
        width = 0.8 / len(series)
        for index, ((name, values), colour) in enumerate(zip(series.items(), _cycle(len(series)), strict=True)):
            at = [group + (index - (len(series) - 1) / 2) * width for group in range(len(groups))]
            heights = [value for value, _, _ in values]
            if name in reference:
                axes.bar(at, heights, width * 0.92, fill=False, edgecolor=colour, hatch="////", label=name)
                continue
            spread = [[max(v - low, 0.0) for v, low, _ in values], [max(high - v, 0.0) for v, _, high in values]]
            # Their edges show which bars they are that have no height.
            bars = axes.bar(at, heights, width * 0.88, color=colour, label=name, yerr=spread, ecolor=_GREY, capsize=3)
            for bar in bars:
                bar.set(edgecolor=colour, linewidth=1.5)
        # What does not fit beside its neighbours is broken at a colon or hyphen.
        room = max(80 // len(groups), 8)
        axes.set_xticks(range(len(groups)), [_broken(group, room) for group in groups])
        axes.set_ylim(-0.015, 1.05)
        self._figure(figure, axes, "", y, legend=True, caption=caption)

    def video(self, path: Path, caption: str = "") -> None:
        """Embed an MP4."""
        self._parts.append(_video(path, caption))

    def videos(self, films: Sequence[tuple[Path, str]]) -> None:
        """Embed several MP4s with their captions, in a grid."""
        shown = "".join(_video(path, caption) for path, caption in films)
        self._parts.append(f'<div class="videos">{shown}</div>')

    def note(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def notice(self, text: str) -> None:
        """Add a paragraph that nobody overlooks."""
        self._parts.append(f'<p class="notice">{html.escape(text)}</p>')

    def details(self, title: str, text: str) -> None:
        """Add text as it is, folded away behind its title."""
        self._parts.append(f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>")

    def write(self, path: Path) -> None:
        """Write the report as one HTML file; whoever reads it meanwhile sees the old one or the new one."""
        lead = f'<p class="lead">{html.escape(self.lead)}</p>' if self.lead else ""
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style></head>"
            f"<body><h1>{html.escape(self.title)}</h1>{lead}{''.join(self._parts)}</body></html>\n"
        )
        partial.replace(path)

    def _figure(self, figure: Figure, axes: Axes, x: str, y: str, legend: bool, caption: str) -> None:
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if legend:
            longest = max(len(text) for text in axes.get_legend_handles_labels()[1])
            columns = max(1, 96 // (longest + 6))
            axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=columns)
        _plain(axes)
        self._add(figure, caption)

    def _add(self, figure: Figure, caption: str) -> None:
        figure.tight_layout()
        buffer = io.StringIO()
        # Without date and random names the same chart is the same file.
        with plt.rc_context({"svg.hashsalt": "irevla"}):
            figure.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(figure)
        svg = buffer.getvalue()
        self.charts.append(svg)
        self._parts.append(
            f'<figure class="chart">{svg[svg.index("<svg") :]}<figcaption>{html.escape(caption)}</figcaption></figure>'
        )


def _draw(axes: Axes, panel: Panel) -> None:
    for curve, colour in zip(panel.curves, _cycle(len(panel.curves)), strict=True):
        if curve.dashed:
            axes.plot(curve.x, curve.y, color=_GREY, label=curve.label, linestyle="--", linewidth=1.0)
            continue
        marker = "o" if len(curve.x) <= 30 and curve.markers is None else None
        axes.plot(curve.x, curve.y, color=colour, label=curve.label, marker=marker, markersize=4, linewidth=1.8)
        for x, y, shape in zip(curve.x, curve.y, curve.markers or (), strict=False):
            axes.plot(x, y, color=colour, marker=shape, markersize=6)
        if curve.low is not None and curve.high is not None:
            axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
    if panel.log_y:
        axes.set_yscale("log")
    if panel.y_range is not None:
        axes.set_ylim(*panel.y_range)
    if max((max(curve.x, default=0.0) for curve in panel.curves), default=0.0) >= 10_000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    _plain(axes)


def _name_spans(axes: Axes, spans: Sequence[tuple[str, float, float]]) -> None:
    """Lines between stretches of the x axis, their names at the upper edge."""
    if not spans:
        return
    whole = spans[-1][2] - spans[0][1]
    for name, start, end in spans:
        axes.axvline(end, color=_GREY, linewidth=0.6, linestyle=":")
        room = int(100 * (end - start) / whole) if whole else 0
        if room >= 6:
            text = _broken(name, room)
            axes.text(
                (start + end) / 2, 1.0, text, transform=axes.get_xaxis_transform(), fontsize=8, color=_GREY,
                ha="center", va="top",
            )  # fmt: skip


def _plain(axes: Axes) -> None:
    axes.grid(axis="y", color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _broken(name: str, room: int) -> str:
    """A name in lines of at most `room` letters, broken at a colon or hyphen."""
    lines = textwrap.wrap(name.replace(":", ":\u200b "), room)
    return "\n".join(lines).replace("\u200b ", "").replace("\u200b", "")


def _numeric(cells: Sequence[str]) -> bool:
    """Whether a column holds numbers, or numbers with what belongs to them; empty cells do not count."""
    found = [cell for cell in cells if cell]
    return bool(found) and all(cell.removeprefix("-")[:1].isdigit() for cell in found)


def _video(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><video controls loop muted autoplay playsinline src="data:video/mp4;base64,{data}"></video>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _cycle(count: int) -> list[str]:
    return [_COLOURS[index % len(_COLOURS)] for index in range(count)]
