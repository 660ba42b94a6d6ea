"""Padded sequences, mixed as hidden representations: a digit is its columns, left to right.

    python recipes/sequences.py

An image is read from its first column with ink to its last. Prints what a linear probe makes of
the encoder's output, beside the same network untrained.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from mixnoise import DACL, get_noise, linear_probe
from mixnoise.datasets import load_digits


class MaskedMean(nn.Module):
    def forward(self, h: Tensor, padding: Tensor) -> Tensor:
        return (h * ~padding[..., None]).sum(1) / (~padding).sum(1, keepdim=True)


class Encoder(nn.Module):
    """Columns ``(N, L, 8)`` and ``(N, L)``, true where they are padding, to ``(N, 64)``."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(8, 64), nn.Parameter(0.1 * torch.randn(16, 64))
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.pool = MaskedMean()
        self.head = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        h = self.embed(x) + self.position[: x.shape[1]]
        return self.head(self.pool(self.layers(h, src_key_padding_mask=padding), padding))


def sequence(row: Tensor) -> Tensor:
    """The columns of an 8x8 image from the first to the last with ink, ``(3 to 8, 8)``."""
    columns = row.view(8, 8).T
    ink = columns.any(1).nonzero()
    return columns[ink[0] : ink[-1] + 1]


def collate(sequences: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Sequences padded to the longest, and where they are padding."""
    x = pad_sequence(sequences, batch_first=True)
    lengths = torch.tensor([len(s) for s in sequences])
    return x, torch.arange(x.shape[1]) >= lengths[:, None]


@torch.no_grad()
def encode(encoder: nn.Module, sequences: list[Tensor]) -> Tensor:
    """The encoder's output for all sequences; it is left in evaluation mode."""
    return encoder.eval()(*collate(sequences))


def main(epochs: int = 30, seed: int = 0, validation: bool = False) -> dict[str, Any]:
    """Pre-train on the training rows, then probe; ``validation`` spares the test rows."""
    torch.manual_seed(seed)
    split = load_digits(validation)
    train, test = ([sequence(row) for row in x] for x in (split.x_train, split.x_test))
    encoder = Encoder()
    untrained = copy.deepcopy(encoder)

    # Mixed where a sequence has become one vector. Before that, real positions would be mixed with
    # the padding of a shorter partner, and those of a longer one cut off; and the mask has N rows
    # where what follows the site sees 2N. After the pooling nothing needs the mask.
    # Noise and temperature were chosen on the validation split.
    noise = get_noise("hidden", noise="linear", alpha=0.5, at="pool")
    projector = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64))
    model = DACL(encoder, projector, noise, temperature=1.0)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    loader = DataLoader(train, 128, shuffle=True, drop_last=True, collate_fn=collate)
    for _ in range(epochs):
        for x, padding in loader:
            loss = model(x, padding)
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
