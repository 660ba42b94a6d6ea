"""DACL in PyTorch Lightning: a LightningModule around it, handwritten digits as 64 columns.

    pip install "lightning>=2.4"
    python recipes/lightning_module.py

Prints what a linear probe makes of the encoder, beside the same network untrained.
"""

import copy
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mixnoise import DACL, get_noise, linear_probe
from mixnoise.datasets import load_digits
from mixnoise.networks import fully_connected


class Pretraining(L.LightningModule):
    """One step is one call of the model, which returns its loss."""

    def __init__(self, model: DACL, lr: float = 1e-3) -> None:
        super().__init__()
        self.model = model
        self.lr = lr
        self.losses: list[Tensor] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.model(batch)
        self.losses.append(loss.detach())
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.model.parameters(), lr=self.lr)


def main(epochs: int = 30, seed: int = 0) -> dict[str, Any]:
    """Pre-train on the training rows, then probe."""
    torch.manual_seed(seed)
    split = load_digits()
    encoder = fully_connected(64, width=256, depth=4)
    untrained = copy.deepcopy(encoder)

    # Noise and temperature are those of mixnoise.demo, chosen there on a validation split for a
    # deeper network. Nothing was tuned here.
    model = DACL(encoder, nn.Linear(256, 128), get_noise("linear", alpha=0.5), temperature=0.5)
    module = Pretraining(model)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,  # without a logger and checkpoints nothing is written
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(split.x_train, batch_size=256, shuffle=True, drop_last=True))

    losses = torch.stack(module.losses).tolist()
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
