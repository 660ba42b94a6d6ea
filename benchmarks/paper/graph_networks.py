"""The graph encoder, and InfoGraph, which is pre-trained on it for comparison."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch
from torch_geometric.nn import GINConv, global_add_pool


def layer(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU())


class GIN(nn.Module):
    """Graphs to the sums over their nodes after each layer, ``(graphs, depth * width)``.

    Xu et al., "How powerful are graph neural networks?", ICLR 2019.
    """

    def __init__(self, n_features: int, width: int, depth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            GINConv(layer(width if i else n_features, width).extend(layer(width, width)))
            for i in range(depth)
        )
        self.out_features = depth * width

    def nodes(self, graphs: Batch) -> Tensor:
        """What each node has after each layer, ``(nodes, depth * width)``."""
        h, after = graphs.x, []
        for conv in self.convs:
            h = conv(h, graphs.edge_index)
            after.append(h)
        return torch.cat(after, 1)

    def forward(self, graphs: Batch) -> Tensor:
        return global_add_pool(self.nodes(graphs), graphs.batch, graphs.num_graphs)


def projector(width: int, out: int = 128) -> nn.Sequential:
    """Thrown away after pre-training. Sums over nodes are of any size, so it begins with a norm."""
    return nn.Sequential(nn.BatchNorm1d(width), layer(width, width), nn.Linear(width, out))


class _Residual(nn.Module):
    """Three layers beside a linear map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Linear(width, width), nn.ReLU()]
        self.deep, self.shortcut = nn.Sequential(*layers), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.deep(x) + self.shortcut(x)


class InfoGraph(nn.Module):
    """Mutual information of a graph and each of its nodes, by the Jensen-Shannon bound.

    A score s tells whether a node is one of a graph's: E[softplus(-s)] over pairs that belong
    together and E[softplus(s)] over those of the batch that do not, both minus log 2.

    Sun et al., "InfoGraph", ICLR 2020.
    """

    def __init__(self, encoder: GIN) -> None:
        super().__init__()
        self.encoder = encoder
        self.of_graphs, self.of_nodes = (_Residual(encoder.out_features) for _ in range(2))

    def forward(self, graphs: Batch) -> Tensor:
        nodes = self.encoder.nodes(graphs)
        sums = global_add_pool(nodes, graphs.batch, graphs.num_graphs)
        scores = self.of_nodes(nodes) @ self.of_graphs(sums).T
        own = F.one_hot(graphs.batch, graphs.num_graphs).bool()
        return F.softplus(-scores[own]).mean() + F.softplus(scores[~own]).mean()
