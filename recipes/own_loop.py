"""DACL in a training loop of your own: handwritten digits as 64 columns, no labels.

    python recipes/own_loop.py

Prints what a linear probe makes of the encoder, beside the same network untrained.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mixnoise import DACL, get_noise, linear_probe
from mixnoise.datasets import load_digits
from mixnoise.networks import fully_connected


def train(model: DACL, loader: Iterable[Tensor], epochs: int) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(epochs):
        for batch in loader:
            loss = model(batch)  # two views, encoder, projector, NT-Xent
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def main(epochs: int = 30, seed: int = 0) -> dict[str, Any]:
    """Pre-train on the training rows, then probe."""
    torch.manual_seed(seed)
    split = load_digits()
    encoder = fully_connected(64, width=256, depth=4)
    untrained = copy.deepcopy(encoder)

    # Noise and temperature are those of mixnoise.demo, chosen there on a validation split for a
    # deeper network. Nothing was tuned here.
    model = DACL(encoder, nn.Linear(256, 128), get_noise("linear", alpha=0.5), temperature=0.5)
    # A short last batch has few negatives, and a row on its own has no partner: it is dropped.
    loader = DataLoader(split.x_train, batch_size=256, shuffle=True, drop_last=True)
    losses = train(model, loader, epochs)

    print(f"Loss: {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last.")
    result = {"losses": losses, "encoder": encoder, "untrained": untrained}
    sets = (split.x_train, split.y_train), (split.x_test, split.y_test)
    for name, net in (("Pre-trained", encoder), ("Untrained", untrained)):
        few, many = (linear_probe(net, *sets, n, seed).accuracy for n in (5, None))
        print(f"{name}: {few:.1%} with 5 labels a class, {many:.1%} with all.")
        result[name] = [few, many]
    return result


if __name__ == "__main__":
    main()
