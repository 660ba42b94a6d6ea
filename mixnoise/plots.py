"""Pictures of a run, made with matplotlib and without its global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixnoise.atomic import replacing


def plot_history(histories: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """A panel for each quantity over epochs, a line for each run.

    Args:
        histories: name of the run to its history, as :class:`mixnoise.train.Run` has it.
        path: where the picture goes; its suffix decides the format, PNG without one.

    Raises:
        ValueError: there is nothing to show.
    """
    from matplotlib.figure import Figure

    wanted = {
        "loss": "NT-Xent loss",
        "validation_loss": "NT-Xent loss of held-out rows",
        "rankme": "RankMe of the encoder's output",
        "knn_accuracy": "kNN accuracy",
    }
    shown = [k for k in wanted if any(k in row for h in histories.values() for row in h)]
    if not shown:
        raise ValueError(f"histories must have one of {', '.join(wanted)}, got none")
    figure = Figure(figsize=(4.2 * len(shown), 3.2), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for name, history in histories.items():
            points = [(row["epoch"], row[key]) for row in history if key in row]
            if points:
                marker = "o" if len(points) == 1 else None
                x, y = zip(*points, strict=True)
                axes.plot(x, y, label=plain_text(name), linewidth=1.5, marker=marker)
        axes.set_xlabel("epoch")
        axes.set_title(wanted[key], fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        if len(histories) > 1:
            axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def plot_embeddings(features: Mapping[str, Any], labels: Any, path: Path) -> None:
    """Features in two dimensions by t-SNE (van der Maaten and Hinton, JMLR 2008), a panel each.

    Args:
        features: name of the panel to ``(N, D)``.
        labels: ``(N,)``, at most ten kinds, for the colours.
        path: where the picture goes.
    """
    from matplotlib.figure import Figure

    labels = np.asarray(labels)
    figure = Figure(figsize=(3.6 * len(features), 3.8), layout="constrained")
    panels = figure.subplots(1, len(features), squeeze=False)[0]
    for axes, (name, h) in zip(panels, features.items(), strict=True):
        points = in_two_dimensions(h)
        for i, label in enumerate(np.unique(labels)):
            chosen = labels == label
            text = plain_text(label)
            axes.scatter(*points[chosen].T, s=5, color=f"C{i % 10}", label=text, linewidth=0)
        axes.set_title(plain_text(name), fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncol=10,
        frameon=False,
        fontsize=8,
        markerscale=2,
    )
    _save(figure, path)


def in_two_dimensions(features: Any) -> Any:
    """``(N, 2)`` of ``(N, D)`` by t-SNE (van der Maaten and Hinton, JMLR 2008), N >= 2."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler

    x = StandardScaler().fit_transform(np.asarray(features, np.float64))
    if x.any():  # else they are all the same, and PCA would divide by their variance
        x = PCA(min(30, *x.shape), random_state=0).fit_transform(x)
    perplexity = min(30.0, (len(x) - 1) / 3)
    # What has collapsed, or is one column, has no two principal components to begin with.
    init = "pca" if np.linalg.matrix_rank(x) > 1 else "random"
    return TSNE(init=init, perplexity=perplexity, random_state=0).fit_transform(x)


def plain_text(text: object) -> str:
    """Escape `$` and a leading `_`, by which matplotlib means a formula and "not in the legend"."""
    escaped = str(text).replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as part:
        figure.savefig(part, dpi=150, format=path.suffix.lower().lstrip(".") or "png")
