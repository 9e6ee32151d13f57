"""The curves of a training run as one SVG file, which stands in a model card: figures and their names alone.

The file looks light or dark as its reader's page does; where a viewer knows no such wish, it is light.
"""

import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Entry = Mapping[str, Any]

PANELS = (
    ("Loss", "loss"),
    ("Reward margin", "rewards/margins"),
    ("Pairs where the chosen reply wins", "rewards/accuracies"),
)
"""What is drawn where a run logs it, and under which name; that of the held-out pairs has `eval_` before it."""

_INK, _MUTED, _LINE, _PAGE, _TRAIN, _TEST = "#26302f", "#4f5b59", "#d3cec2", "#fffdf9", "#1f5fa0", "#9a4a10"
_DARK = {_INK: "#e9ece8", _MUTED: "#b0bbb7", _LINE: "#3b4442", _PAGE: "#1c2120", _TRAIN: "#86b9ee", _TEST: "#f0ae72"}
_WIDTH_INCHES, _PANEL_INCHES = 7.0, 2.3
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "llumi", "font.size": 10, "font.family": "DejaVu Sans"}


def curves_svg(history: Sequence[Entry], model: str) -> str | None:
    """The SVG of a run's log, one panel for each figure that it holds; None where it holds none of them.

    The full line is training, the dashed one with dots the held-out pairs. The same log gives the same bytes.
    """
    panels = [(label, points(history, key), points(history, f"eval_{key}")) for label, key in PANELS]
    drawn = [panel for panel in panels if panel[1] or panel[2]]
    if not drawn:
        return None
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_INCHES, _PANEL_INCHES * len(drawn) + 0.3), layout="constrained", facecolor=_PAGE)
        for axes, panel in zip(figure.subplots(len(drawn), sharex=True, squeeze=False)[:, 0], drawn, strict=True):
            _draw(axes, *panel)
        axes.set_xlabel("Step", color=_MUTED)
        axes.xaxis.get_major_locator().set_params(integer=True)
        sink = io.StringIO()
        FigureCanvasSVG(figure).print_svg(sink, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _dressed(sink.getvalue(), f"Training of {model}", "; ".join(_last(*panel) for panel in drawn) + ".")


def points(history: Sequence[Entry], key: str) -> list[tuple[int, float]]:
    """Step and value of a figure in the order of the log, once for each step."""
    return list({entry["step"]: float(entry[key]) for entry in history if key in entry}.items())


def _draw(axes: Any, label: str, train: Sequence[tuple[int, float]], test: Sequence[tuple[int, float]]) -> None:
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.tick_params(color=_LINE, labelcolor=_MUTED)
    axes.grid(axis="y", color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(label, loc="left", color=_INK, fontsize=11)
    if train:
        axes.plot(
            *zip(*train, strict=True), color=_TRAIN, linewidth=1.4, marker="." if len(train) == 1 else "", label="training"
        )
    if test:
        axes.plot(*zip(*test, strict=True), "--o", color=_TEST, linewidth=1.6, markersize=4.5, label="held out")
    axes.legend(loc="best", frameon=False, labelcolor=_INK, fontsize=9)


def _last(label: str, train: Sequence[tuple[int, float]], test: Sequence[tuple[int, float]]) -> str:
    ends = [f"{name} {curve[-1][1]:.4g}" for name, curve in (("training", train), ("held out", test)) if curve]
    return f"{label} at the end: {', '.join(ends)}"


def _dressed(svg: str, title: str, description: str) -> str:
    """With words for those who cannot see it, the colours of a dark page, and the reader's own font."""
    start = svg.index(">", svg.index("<svg"))
    rules = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark} !important}}'
        for light, dark in _DARK.items()
        for kind in ("fill", "stroke")
    )
    words = (
        f'<title id="title">{escape(title)}</title><desc id="desc">{escape(description)}</desc>'
        f"<style>@media (prefers-color-scheme: dark) {{{rules}}}</style>"
    )
    # What stands before the element names a document type of another host.
    whole = f'{svg[svg.index("<svg") : start]} role="img" aria-labelledby="title desc">{words}{svg[start + 1 :]}'
    return whole.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans', sans-serif")
