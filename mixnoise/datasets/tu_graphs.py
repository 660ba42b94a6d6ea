"""Graph classification sets of the TU Dortmund collection."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mixnoise.checks import check_choice
from mixnoise.datasets.files import folders, not_downloaded

# What reading an archive may raise.
_DAMAGED = (
    *(OSError, EOFError, KeyError, ValueError, StopIteration, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class _Known:
    """What a set must have, and which file of plain text has it."""

    graphs: int
    classes: int
    nodes: int  # of all graphs
    file: str | None = None


_KNOWN = {
    "MUTAG": _Known(188, 2, 3_371, "MUTAG"),
    "PTC_MR": _Known(344, 2, 4_915, "PTC_MR"),
    "IMDB-BINARY": _Known(1_000, 2, 19_773, "IMDBBINARY"),
    "IMDB-MULTI": _Known(1_500, 3, 19_502, "IMDBMULTI"),
    "REDDIT-BINARY": _Known(2_000, 2, 859_254, "REDDIT-BINARY"),
    "REDDIT-MULTI-5K": _Known(4_999, 5, 2_542_763),
}
NAMES = tuple(_KNOWN)


def load_tu_graphs(name: str) -> list[Any]:
    """A set of graphs with a label each (Morris et al., arXiv 2007.08663).

    Read from the zip of plain text in ``$MIXNOISE_DATA/tu_graphs``, as published with "How powerful
    are graph neural networks?" (Xu et al., ICLR 2019), where there is one. Otherwise PyTorch
    Geometric's ``TUDataset`` downloads the set and keeps it in ``$MIXNOISE_DATA/tu``.

    Args:
        name: "MUTAG", "PTC_MR", "IMDB-BINARY", "IMDB-MULTI", "REDDIT-BINARY" or "REDDIT-MULTI-5K".

    Returns:
        ``torch_geometric.data.Data`` with ``x`` ``(nodes, features)`` float32: one-hot tags
        (MUTAG, PTC_MR), or 1 where nodes have none, as in InfoGraph's experiments; ``edge_index``
        ``(2, edges)`` int64 with each edge in both directions; ``y`` ``(1,)`` int64.

    Raises:
        ValueError: a name that is none of these; a file that is truncated or altered; a set
            that cannot be downloaded.
        ImportError: without PyTorch Geometric.

    Example:
        >>> from mixnoise.datasets import load_tu_graphs
        >>> graphs = load_tu_graphs("MUTAG")  # doctest: +SKIP
        >>> len(graphs), graphs[0].x.shape  # doctest: +SKIP
        (188, torch.Size([23, 7]))
    """
    check_choice("name", name, NAMES)
    known = _KNOWN[name]
    try:
        from torch_geometric.data import Data
    except ImportError as error:
        raise ImportError("graphs need PyTorch Geometric: pip install 'mixnoise[graph]'") from error
    root = next(folders("tu_graphs"))
    path = root / f"{known.file}.zip"
    if known.file and path.exists():
        graphs, source = [Data(**parts) for parts in _read(path, known.file)], str(path)
    else:
        from torch_geometric.datasets import TUDataset

        source = str(next(folders("tu")))
        try:
            found = TUDataset(source, name)
        except OSError as error:
            raise ValueError(
                f"{not_downloaded('tu_graphs', error)}; put {known.file or name}.zip there, or the "
                f"set's own files into {Path(source) / name / 'raw'}"
            ) from error
        graphs = [
            Data(
                tag=torch.zeros(g.num_nodes).long() if g.x is None else g.x.argmax(1),
                edge_index=g.edge_index,
                y=g.y,
                num_nodes=g.num_nodes,
            )
            for g in found
        ]
    _check(name, graphs, source)
    return _with_features(graphs)


def _read(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """Tags, edges and label of each graph.

    The number of graphs; for each a line "nodes label"; for each of its nodes a line
    "tag degree neighbours", the neighbours counted from 0 within the graph.
    """
    number = 0
    try:
        with zipfile.ZipFile(path) as archive:
            lines = archive.read(f"{name}/{name}.txt").decode().splitlines()
        rows = iter(lines)
        for _ in range(int(next(rows))):
            number += 1
            n_nodes, label = (int(value) for value in next(rows).split())
            tags, here, there = [], [], []
            for node in range(n_nodes):
                tag, degree, *neighbours = (int(value) for value in next(rows).split())
                if len(neighbours) != degree or not all(0 <= n < n_nodes for n in neighbours):
                    raise ValueError(f"the neighbours of node {node} are not its {degree}")
                tags.append(tag)
                here += [node] * degree
                there += neighbours
            yield {
                "tag": torch.tensor(tags),
                "edge_index": torch.tensor([here, there]),
                "y": torch.tensor([label]),
                "num_nodes": n_nodes,
            }
    except _DAMAGED as e:
        where = f" at graph {number}" if number else ""
        why = str(e) or "it ends there"
        raise ValueError(
            f"{path} is truncated or was altered{where} ({why}); take it anew, or remove it, and "
            "PyTorch Geometric downloads the set"
        ) from e


def _check(name: str, graphs: list[Any], source: str) -> None:
    known = _KNOWN[name]
    found = (
        len(graphs),
        len({int(g.y) for g in graphs}),
        sum(g.num_nodes for g in graphs),
    )
    if found != (known.graphs, known.classes, known.nodes):
        raise ValueError(
            f"{source} is not {name}, which has {known.graphs:,} graphs of {known.classes} classes "
            f"and {known.nodes:,} nodes: got {found[0]:,} of {found[1]} and {found[2]:,}; remove "
            "it, and PyTorch Geometric downloads the set"
        )


def _with_features(graphs: list[Any]) -> list[Any]:
    """Tags become one-hot features, a single one the constant 1; labels count from 0."""
    tags = torch.cat([g.tag for g in graphs]).unique()
    classes = torch.cat([g.y for g in graphs]).unique()
    for graph in graphs:
        graph.x = (graph.tag[:, None] == tags).float()
        graph.y = torch.searchsorted(classes, graph.y)
        del graph.tag, graph.num_nodes
    return graphs
