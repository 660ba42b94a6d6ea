"""Two gloo processes on this machine: DACL under DistributedDataParallel, and the trainer."""

import atexit
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from mixnoise import DACL, get_noise, pretrain

X = torch.rand(96, 6, generator=torch.Generator().manual_seed(0))


def make_model():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12))
    return DACL(encoder, nn.Linear(12, 4), get_noise("hidden", noise="dacl+", at="1"))


def local_loss(model, rank):
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(8 + 3 * rank, 6, generator=generator)
    return model(x, generator=generator)


def average_gradients(path):
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


class Stream(IterableDataset):
    def __len__(self):
        return len(X)

    def __iter__(self):
        return iter(X)


DATA = {
    "tensor": lambda: X,
    "dataset": lambda: TensorDataset(X),
    "loader": lambda: DataLoader(TensorDataset(X), 8, shuffle=True),
    "stream": Stream,
}


def train(path, kind):
    rank, seen = int(os.environ["RANK"]), []
    model = make_model()
    hook = model.encoder.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].clone())
    )
    run = pretrain(model, DATA[kind](), epochs=2, batch_size=8, evaluate_every=2, progress=False)
    hook.remove()
    # Without the evaluation in the main process.
    seen = torch.stack([x for x in seen if len(x) == 8][: run.history[-1]["step"]])
    torch.save([seen, [p.detach() for p in model.parameters()]], f"{path}.{rank}")


def run_twice(*arguments):
    """This file as a program of two processes."""
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
            *("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", __file__, *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        # On the CPU, also where there is one GPU, which two processes cannot share.
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=Path(__file__).parent,
    )
    assert ended.returncode == 0, ended.stdout


def test_ddp_averages_the_gradients_of_the_ranks(tmp_path):
    path = tmp_path / "grads.pt"
    run_twice("average_gradients", str(path))
    got = torch.load(path, weights_only=True)
    expected = []
    for rank in (0, 1):
        model = make_model()
        local_loss(model, rank).backward()
        expected.append([p.grad for p in model.parameters()])
    for mean, first, second in zip(got, *expected, strict=True):
        assert not torch.allclose(first, second)  # asymmetric ranks, or the test shows nothing
        torch.testing.assert_close(mean, (first + second) / 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of several runs in the same two processes, one after the other."""
    folder = tmp_path_factory.mktemp("trained")
    run_twice("train_all", str(folder))
    return folder


def train_all(folder):
    # Registered before pretrain's own, and so called after it.
    atexit.register(write_gloo_threads, Path(f"{folder}/threads.{os.environ['RANK']}"))
    for kind in DATA:
        train(f"{folder}/{kind}", kind)
    train_gathered(f"{folder}/gathered")
    train_until_it_is_no_better(f"{folder}/stopped")


@pytest.mark.parametrize("kind", DATA)
def test_processes_share_an_epoch_and_end_with_the_same_weights(kind, trained):
    (seen, weights), (others, same) = (
        torch.load(trained / f"{kind}.{rank}", weights_only=True) for rank in (0, 1)
    )
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
    assert seen.shape == others.shape == (12, 8, 6)  # 96 rows, twice, 16 at a time
    for epoch in (slice(0, 6), slice(6, 12)):
        rows = torch.cat((seen[epoch], others[epoch])).flatten(0, 1)
        assert torch.equal(rows.unique(dim=0), X.unique(dim=0))  # each row once


def train_gathered(path):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12))
    weights = []
    for gather, micro_batch in ((False, None), (True, None), (True, 5)):
        model = DACL(encoder, nn.Linear(12, 4), get_noise("dacl+"), gather=gather)
        for p in model.parameters():
            nn.init.uniform_(p, -0.5, 0.5, generator=torch.Generator().manual_seed(p.numel()))
        pretrain(model, X, epochs=2, batch_size=8, micro_batch=micro_batch, progress=False)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.save(weights, f"{path}.{os.environ['RANK']}")


def test_trainer_with_the_negatives_of_all_processes(trained):
    first, second = (torch.load(trained / f"gathered.{rank}", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    local, gathered, in_parts = first
    assert not torch.allclose(local, gathered, rtol=1e-3)
    torch.testing.assert_close(in_parts, gathered, rtol=1e-4, atol=1e-6)


def train_until_it_is_no_better(path):
    rank = int(os.environ["RANK"])
    torch.manual_seed(0)
    # Statistics of its own rows in each process, so that the losses there differ.
    encoder = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12))
    model = DACL(encoder, nn.Linear(12, 4), get_noise("dacl+"), gather=True)
    settings = {"epochs": 50, "batch_size": 8, "lr": 1e-3, "progress": False}
    run = pretrain(model, X[:64], validation=X[64:], patience=2, **settings)
    losses = [row["validation_loss"] for row in run.history if "validation_loss" in row]
    torch.save([len(run.history), losses], f"{path}.{rank}")


def test_all_processes_stop_at_the_same_epoch(trained):
    first, second = (torch.load(trained / f"stopped.{rank}", weights_only=True) for rank in (0, 1))
    assert first == second
    assert first[0] < 50


def write_gloo_threads(path):
    threads = [name.read_text() for name in Path("/proc/self/task").glob("*/comm")]
    path.write_text("".join(name for name in threads if "gloo" in name))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's list of threads")
def test_no_thread_of_the_group_is_left_when_python_ends(trained):
    # Such a thread sees the other process go, at times while its own is half taken down.
    assert [trained.joinpath(f"threads.{rank}").read_text() for rank in (0, 1)] == ["", ""]


if __name__ == "__main__":
    functions = (average_gradients, train_all)
    {f.__name__: f for f in functions}[sys.argv[1]](*sys.argv[2:])
