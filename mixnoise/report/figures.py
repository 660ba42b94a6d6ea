"""Figures as SVG whose colours are the page's, so that they follow a dark theme."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixnoise.plots import in_two_dimensions, plain_text

_INK = "#010203"  # becomes the page's colour of text
# Okabe and Ito's palette, told apart by colour-blind readers, on light and dark ground.
COLORS = (
    *("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7"),
    *("#56b4e9", "#b8a600", "#8c6d31", "#7570b3", "#777777"),
)
_MOST_CLASSES = len(COLORS)
CURVES = {
    "NT-Xent loss": {"loss": "training rows", "validation_loss": "held-out rows"},
    "RankMe of the features": {"rankme": "RankMe"},
    "Alignment of positives": {"alignment": "alignment"},
    "Uniformity of projections": {"uniformity": "uniformity"},
}


def curves(history: Sequence[Mapping[str, float]]) -> list[str]:
    """A figure for each of ``CURVES`` that the history has values of."""
    found = []
    for title, lines in CURVES.items():
        points = {
            name: [(row["epoch"], row[key]) for row in history if key in row]
            for key, name in lines.items()
        }
        points = {name: p for name, p in points.items() if p}
        if points:
            found.append(_curve(title, points))
    return found


def _curve(title: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    figure, axes = _panel(title)
    for color, (name, points) in zip(COLORS, lines.items(), strict=False):
        marker = "o" if len(points) == 1 else None
        axes.plot(*zip(*points, strict=True), label=name, color=color, marker=marker)
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(lines) > 1:
        axes.legend(frameon=False, labelcolor=_INK)
    return _svg(figure, title)


def projection(title: str, features: Any, labels: Any = None) -> str:
    """Rows in two dimensions by t-SNE (van der Maaten and Hinton, JMLR 2008).

    Args:
        title: over the figure.
        features: ``(N, D)``.
        labels: ``(N,)``; the nine most frequent have colours, the others one, and what is missing
            is left grey. Numbers of many values are coloured by their size.
    """
    xy = in_two_dimensions(features)
    figure, axes = _panel(title)
    axes.set_xticks([])
    axes.set_yticks([])
    if labels is None:
        axes.scatter(*xy.T, s=7, color=COLORS[0], linewidth=0, alpha=0.8)
        return _svg(figure, title)
    labels = np.asarray(labels)
    if labels.dtype.kind in "fiu" and len(np.unique(labels)) > _MOST_CLASSES:
        low, high = np.nanpercentile(labels.astype(float), (2, 98))
        shown = axes.scatter(*xy.T, s=7, c=labels.astype(float), vmin=low, vmax=high, linewidth=0)
        bar = figure.colorbar(shown, ax=axes)
        bar.ax.tick_params(colors=_INK)
        bar.outline.set_visible(False)
        return _svg(figure, title)
    texts = np.array(["missing" if v is None or v != v else str(v) for v in labels.tolist()])
    names, counts = np.unique(texts, return_counts=True)
    names = names[np.argsort(-counts, kind="stable")]
    named = sorted(names if len(names) <= _MOST_CLASSES else names[: _MOST_CLASSES - 1])
    for color, name in zip(COLORS, named, strict=False):
        axes.scatter(*xy[texts == name].T, s=7, color=color, label=plain_text(name), linewidth=0)
    others = ~np.isin(texts, named)
    if others.any():
        axes.scatter(*xy[others].T, s=7, color=COLORS[-1], label="others", linewidth=0)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        ncol=5,
        frameon=False,
        labelcolor=_INK,
        markerscale=2,
        fontsize=8,
    )
    return _svg(figure, title)


def _panel(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 3.2), layout="constrained", facecolor="none")
    axes = figure.subplots()
    axes.set_facecolor("none")
    axes.set_title(title, fontsize=10, color=_INK)
    axes.tick_params(colors=_INK, labelsize=8)
    axes.xaxis.label.set_color(_INK)
    axes.spines[:].set_color(_INK)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any, name: str) -> str:
    """The element alone, text as text, and the same bytes for the same figure."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # Ids are those of one figure, and there are several in a page.
    prefix = re.sub(r"\W", "-", name)
    svg = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)
