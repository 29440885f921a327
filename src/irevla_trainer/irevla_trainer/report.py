"""Self-contained HTML reports: figures, tables, curves and videos in one file that needs no network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLOURS = ("#3b6fb5", "#d1772c", "#3f9463", "#a8477c", "#7a6bb0", "#8a7a3c")
_GREY = "#7d8590"

_STYLE = """
:root { color-scheme: light dark; --line: #d5d9de; --soft: #f4f6f8; --ink: #1c2733; --grey: #66717d; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); }
body { max-width: 62rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.lead { color: var(--grey); margin-top: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .9rem; }
.card { background: var(--soft); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; }
.card b { display: block; font-size: 1.5rem; }
.card span { color: var(--grey); font-size: .9rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .4rem .7rem; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--grey); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; }
figcaption { color: var(--grey); font-size: .9rem; }
svg { max-width: 100%; height: auto; }
video { width: 100%; border-radius: 8px; border: 1px solid var(--line); }
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
        label: Name in the legend.
        x: Positions.
        y: Values.
        low: Lower end of the interval at each position, if there is one.
        high: Upper end of the interval.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass
class Report:
    """A report that grows section by section and is written once."""

    title: str
    lead: str = ""
    _parts: list[str] = field(default_factory=list)

    def section(self, title: str, text: str = "") -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{html.escape(title)}</h2>")
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
        """Show a table; numbers stand right-aligned."""
        numeric = [all(str(row[place])[:1].isdigit() for row in rows) for place in range(len(columns))]

        def line(tag: str, values: Sequence[object]) -> str:
            kinds = [' class="number"' if number else "" for number in numeric]
            cells = [
                f"<{tag}{kind}>{html.escape(str(value))}</{tag}>" for kind, value in zip(kinds, values, strict=True)
            ]
            return f"<tr>{''.join(cells)}</tr>"

        head = line("th", columns)
        body = "".join(line("td", row) for row in rows)
        self._parts.append(f"<table><thead>{head}</thead><tbody>{body}</tbody></table>")

    def chart(
        self,
        curves: Sequence[Curve],
        *,
        x: str,
        y: str,
        caption: str = "",
        log_y: bool = False,
        y_range: tuple[float, float] | None = None,
    ) -> None:
        """Show curves over one axis, with their intervals as bands."""
        figure, axes = plt.subplots(figsize=(8.4, 3.4))
        for curve, colour in zip(curves, _cycle(len(curves)), strict=True):
            marker = "o" if len(curve.x) <= 30 else None
            axes.plot(curve.x, curve.y, color=colour, label=curve.label, marker=marker, markersize=4, linewidth=1.8)
            if curve.low is not None and curve.high is not None:
                axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        if log_y:
            axes.set_yscale("log")
        if y_range is not None:
            axes.set_ylim(*y_range)
        self._figure(figure, axes, x, y, legend=len(curves) > 1, caption=caption)

    def bars(
        self,
        groups: Sequence[str],
        series: Mapping[str, Sequence[tuple[float, float, float]]],
        *,
        y: str,
        caption: str = "",
    ) -> None:
        """Show grouped bars with intervals.

        Args:
            groups: Names under the groups.
            series: Series name to one `(value, low, high)` per group.
            y: Label of the axis.
            caption: Sentence under the chart.
        """
        figure, axes = plt.subplots(figsize=(8.4, 3.4))
        width = 0.8 / len(series)
        for index, ((name, values), colour) in enumerate(zip(series.items(), _cycle(len(series)), strict=True)):
            at = [group + (index - (len(series) - 1) / 2) * width for group in range(len(groups))]
            heights = [value for value, _, _ in values]
            spread = [[max(v - low, 0.0) for v, low, _ in values], [max(high - v, 0.0) for v, _, high in values]]
            axes.bar(at, heights, width * 0.92, color=colour, label=name, yerr=spread, ecolor=_GREY, capsize=3)
        axes.set_xticks(range(len(groups)), groups)
        axes.set_ylim(0.0, 1.05)
        self._figure(figure, axes, "", y, legend=True, caption=caption)

    def video(self, path: Path, caption: str = "") -> None:
        """Embed an MP4."""
        data = base64.b64encode(path.read_bytes()).decode()
        self._parts.append(
            f'<figure><video controls loop muted autoplay playsinline src="data:video/mp4;base64,{data}"></video>'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def note(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def write(self, path: Path) -> None:
        """Write the report as one HTML file."""
        lead = f'<p class="lead">{html.escape(self.lead)}</p>' if self.lead else ""
        path.write_text(
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style></head>"
            f"<body><h1>{html.escape(self.title)}</h1>{lead}{''.join(self._parts)}</body></html>\n"
        )

    def _figure(self, figure: Figure, axes: Axes, x: str, y: str, legend: bool, caption: str) -> None:
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(axis="y", color="#e3e6ea", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if legend:
            axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=6)
        figure.tight_layout()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg")
        plt.close(figure)
        svg = buffer.getvalue()
        self._parts.append(
            f'<figure class="chart">{svg[svg.index("<svg") :]}<figcaption>{html.escape(caption)}</figcaption></figure>'
        )


def _cycle(count: int) -> list[str]:
    return [_COLOURS[index % len(_COLOURS)] for index in range(count)]
