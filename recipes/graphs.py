"""Graphs, mixed as hidden representations: a digit is a graph of its pixels with ink.

    pip install "mixnoise[graph]"
    python recipes/graphs.py

Nodes hold their ink and their position, and neighbours are joined, diagonal ones too. Prints what
a linear probe makes of the encoder's output, beside the same network untrained.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GINConv, global_add_pool

from mixnoise import DACL, get_noise, linear_probe
from mixnoise.datasets import load_digits


def layer(n_in: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, 64), nn.BatchNorm1d(64), nn.ReLU())


class Encoder(nn.Module):
    """GIN: the sums over the nodes after each of three layers, side by side, ``(graphs, 192)``."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(GINConv(layer(n).extend(layer(64))) for n in (3, 64, 64))

    def forward(self, graphs: Batch) -> Tensor:
        h, sums = graphs.x, []
        for conv in self.convs:
            h = conv(h, graphs.edge_index)
            sums.append(global_add_pool(h, graphs.batch, graphs.num_graphs))
        return torch.cat(sums, dim=1)


def graph(row: Tensor) -> Data:
    """The 64 pixels of a row as a graph of those with ink, each edge in both directions."""
    place = row.view(8, 8).nonzero()
    distance = (place[:, None] - place).abs().amax(-1)
    x = torch.column_stack((row[row > 0], place / 7))
    return Data(x=x, edge_index=(distance == 1).nonzero().T.contiguous())


@torch.no_grad()
def encode(encoder: nn.Module, graphs: list[Data]) -> Tensor:
    """The encoder's output for all graphs; it is left in evaluation mode."""
    encoder.eval()
    return torch.cat([encoder(batch) for batch in DataLoader(graphs, batch_size=256)])


def main(epochs: int = 20, seed: int = 0, validation: bool = False) -> dict[str, Any]:
    """Pre-train on the training rows, then probe; ``validation`` spares the test rows."""
    torch.manual_seed(seed)
    split = load_digits(validation)
    train, test = ([graph(row) for row in x] for x in (split.x_train, split.x_test))
    encoder = Encoder()
    untrained = copy.deepcopy(encoder)

    # Nobody can add two graphs, so their representations are mixed: the encoder's output. Alpha is
    # the paper's for graphs, the temperature was chosen on the validation split.
    noise = get_noise("hidden", noise="linear", alpha=0.9)
    projector = nn.Sequential(layer(192), nn.Linear(64, 64))
    model = DACL(encoder, projector, noise, temperature=1.0)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    for _ in range(epochs):
        for batch in DataLoader(train, batch_size=128, shuffle=True, drop_last=True):
            loss = model(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    print(f"Loss: {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last.")

    result = {"losses": losses, "encoder": encoder, "untrained": untrained}
    for name, net in (("Pre-trained", encoder), ("Untrained", untrained)):
        sets = (encode(net, train), split.y_train), (encode(net, test), split.y_test)
        few, many = (linear_probe(nn.Identity(), *sets, n, seed).accuracy for n in (5, None))
        print(f"{name}: {few:.1%} with 5 labels a class, {many:.1%} with all.")
        result[name] = [few, many]
    return result


if __name__ == "__main__":
    main()
