"""Several processes: the same call of ``pretrain`` as in one, started by torchrun.

    torchrun --nproc-per-node 2 recipes/distributed.py

Every process takes its share of each batch and contrasts it with the rows of all of them; gradients
are averaged. A line for each process shows that all end with the same weights; the first one prints
what a linear probe makes of them, beside the same network untrained. docs/scaling.md has the
commands for several machines.
"""

import copy
import hashlib
import os
from typing import Any

import torch
from torch import nn

from mixnoise import DACL, get_noise, linear_probe, pretrain
from mixnoise.datasets import load_digits
from mixnoise.networks import fully_connected


def digest(module: nn.Module) -> str:
    """Parameters in eight characters. Batch norm's running statistics are each process's own."""
    code = hashlib.sha256()
    for parameter in module.parameters():
        code.update(parameter.detach().cpu().numpy().tobytes())
    return code.hexdigest()[:8]


def main(epochs: int = 30, seed: int = 0) -> dict[str, Any]:
    """Pre-train on the training rows; in the first process, then probe."""
    torch.manual_seed(seed)
    split = load_digits()
    encoder = fully_connected(64, width=256, depth=4)
    untrained = copy.deepcopy(encoder)

    # Noise and temperature are those of mixnoise.demo, chosen there on a validation split for a
    # deeper network. Nothing was tuned here.
    noise = get_noise("linear", alpha=0.5)
    # gather: negatives come from all processes, not only from the row's own.
    model = DACL(encoder, nn.Linear(256, 128), noise, temperature=0.5, gather=True)
    # batch_size is that of one process: two of them step over 512 rows at a time.
    run = pretrain(model, split.x_train, epochs=epochs, batch_size=256, seed=seed)

    rank, losses = int(os.environ.get("RANK", "0")), run.losses
    # The line and its end in one write: under PYTHONUNBUFFERED, as in many containers, print makes
    # two, and another process's may come between.
    print(
        f"Rank {rank}: {run.history[-1]['step']} steps, loss {losses[0]:.3f} in the first epoch "
        f"and {losses[-1]:.3f} in the last, weights {digest(encoder)}.\n",
        end="",
        flush=True,
    )
    result = {"losses": losses, "encoder": encoder, "untrained": untrained}
    if rank > 0:
        return result
    sets = (split.x_train, split.y_train), (split.x_test, split.y_test)
    for name, net in (("Pre-trained", encoder), ("Untrained", untrained)):
        few, many = (linear_probe(net, *sets, n, seed).accuracy for n in (5, None))
        print(f"{name}: {few:.1%} with 5 labels a class, {many:.1%} with all.")
        result[name] = [few, many]
    return result


if __name__ == "__main__":
    main()
