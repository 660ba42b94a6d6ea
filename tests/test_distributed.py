"""DACL under DistributedDataParallel: two gloo processes on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from mixnoise import DACL, get_noise


def make_model():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12))
    return DACL(encoder, nn.Linear(12, 4), get_noise("hidden", noise="dacl+", at="1"))


def local_loss(model, rank):
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(8 + 3 * rank, 6, generator=generator)
    return model(x, generator=generator)


def main(path):
    torch.distributed.init_process_group("gloo")
    try:
        rank = torch.distributed.get_rank()
        model = nn.parallel.DistributedDataParallel(make_model())
        local_loss(model, rank).backward()
        if rank == 0:
            torch.save([p.grad for p in model.module.parameters()], path)
        # gloo may abort where a rank ends early, or while DDP still holds the group.
        torch.distributed.barrier()
        del model
    finally:
        torch.distributed.destroy_process_group()


def test_ddp_averages_the_gradients_of_the_ranks(tmp_path):
    path = tmp_path / "grads.pt"
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
            *("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", __file__, str(path)),
        ],
        check=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parent,
    )
    got = torch.load(path, weights_only=True)
    expected = []
    for rank in (0, 1):
        model = make_model()
        local_loss(model, rank).backward()
        expected.append([p.grad for p in model.parameters()])
    for mean, first, second in zip(got, *expected, strict=True):
        assert not torch.allclose(first, second)  # asymmetric ranks, or the test shows nothing
        torch.testing.assert_close(mean, (first + second) / 2)


if __name__ == "__main__":
    main(sys.argv[1])
