"""What the trainer costs beside the steps themselves."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import nn

from benchmarks.speed.interleave import interleave
from mixnoise import DACL, get_noise, pretrain
from mixnoise.networks import fully_connected
from mixnoise.seeding import derive_seed
from mixnoise.training.optim import make_optimizer, warmup_cosine

BATCH, COLUMNS, WIDTH = 1024, 784, 512
EPOCHS, STEPS_PER_EPOCH = 2, 40
STEPS = EPOCHS * STEPS_PER_EPOCH
LR, WEIGHT_DECAY = 1e-3, 1e-4


def model():
    torch.manual_seed(0)
    encoder = fully_connected(COLUMNS, WIDTH, 12)
    return DACL(encoder, nn.Linear(WIDTH, 128), get_noise("dacl+", low=0.0))


def bare_loop(x):
    """The same steps by hand: same order, same noise, same rates."""
    trained = model().train()
    optimizer = make_optimizer("adamw", trained, LR, WEIGHT_DECAY)
    step, generator = 0, torch.Generator()
    for epoch in range(EPOCHS):
        generator.manual_seed(derive_seed(0, "epoch", epoch))
        for rows in torch.randperm(len(x), generator=generator).split(BATCH):
            generator.manual_seed(derive_seed(0, "noise/0", step))
            for group in optimizer.param_groups:
                group["lr"] = LR * warmup_cosine(step, STEPS)
            loss = trained(x[rows], generator=generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    return trained


def test_trainer(benchmark, tmp_path: Path):
    """Two epochs of 40 steps, and all that a run leaves: checkpoints, events, pictures."""
    x = torch.rand(STEPS_PER_EPOCH * BATCH, COLUMNS, generator=torch.Generator().manual_seed(0))
    folders = (tmp_path / str(i) for i in itertools.count())

    def trainer():
        trained = model()
        settings = {"epochs": EPOCHS, "batch_size": BATCH, "lr": LR, "weight_decay": WEIGHT_DECAY}
        pretrain(trained, x, run_dir=next(folders), progress=False, **settings)
        return trained

    ours, bare = trainer().state_dict(), bare_loop(x).state_dict()
    assert all(torch.equal(ours[name], bare[name]) for name in bare)
    benchmark.extra_info["steps"] = STEPS
    interleave(benchmark, trainer, {"bare loop": lambda: bare_loop(x)}, rounds=4)
