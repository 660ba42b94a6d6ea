"""Optimisers against their papers, and the schedule."""

import numpy as np
import pytest
import torch
from torch import nn

from mixnoise.training.optim import default_lr, make_optimizer, warmup_cosine


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()


def five_steps(network, optimizer):
    """Weights after five steps, and the gradients of each."""
    x, y = torch.randn(16, 6, dtype=torch.float64), torch.randn(16, 3, dtype=torch.float64)
    gradients = []
    for _ in range(5):
        optimizer.zero_grad()
        (network(x) - y).square().mean().backward()
        gradients.append([p.grad.numpy().copy() for p in network.parameters()])
        optimizer.step()
    return [p.detach().numpy() for p in network.parameters()], gradients


def test_lars_is_the_papers_update():
    """You et al., arXiv 1708.03888, algorithm 1: v = m v + rate * local * (g + wd w); w -= v.

    Vectors, as is usual, with local = 1 and without weight decay.
    """
    network, lr, wd, momentum, trust = small_network(), 0.5, 0.01, 0.9, 1e-3
    w = [p.detach().numpy().copy() for p in network.parameters()]
    v = [np.zeros_like(p) for p in w]
    found, gradients = five_steps(network, make_optimizer("lars", network, lr, wd))
    for step in gradients:
        for i, g in enumerate(step):
            local, decay = 1.0, 0.0
            if w[i].ndim > 1:
                norm_w, norm_g, decay = np.linalg.norm(w[i]), np.linalg.norm(g), wd
                local = trust * norm_w / (norm_g + wd * norm_w)
            v[i] = momentum * v[i] + lr * local * (g + decay * w[i])
            w[i] = w[i] - v[i]
    for a, b in zip(found, w, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_adamw_is_the_papers_update():
    """Loshchilov and Hutter, arXiv 1711.05101, algorithm 2; vectors without weight decay."""
    network, lr, wd, b1, b2, eps = small_network(), 0.01, 0.1, 0.9, 0.999, 1e-8
    w = [p.detach().numpy().copy() for p in network.parameters()]
    m, v = ([np.zeros_like(p) for p in w] for _ in range(2))
    optimizer = make_optimizer("adamw", network, lr, wd)
    found, gradients = five_steps(network, optimizer)
    position = {id(p): i for i, p in enumerate(network.parameters())}
    assert sorted(position[id(p)] for group in optimizer.param_groups for p in group["params"]) == [
        *range(6)
    ]
    for t, step in enumerate(gradients, 1):
        for i, g in enumerate(step):
            m[i] = b1 * m[i] + (1 - b1) * g
            v[i] = b2 * v[i] + (1 - b2) * g * g
            update = m[i] / (1 - b1**t) / (np.sqrt(v[i] / (1 - b2**t)) + eps)
            w[i] = w[i] - lr * (update + (wd * w[i] if w[i].ndim > 1 else 0))
    for a, b in zip(found, w, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_frozen_parameters_are_left_out():
    network = small_network()
    network[0].requires_grad_(False)
    groups = make_optimizer("adamw", network, 0.1, 0.1).param_groups
    assert sum(len(group["params"]) for group in groups) == 4


@pytest.mark.parametrize("n_steps", [1, 2, 19, 100, 1000])
def test_schedule(n_steps):
    rates = [warmup_cosine(step, n_steps) for step in range(n_steps)]
    warmup = max(1, round(n_steps / 20))
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[warmup - 1] == 1
    assert rates[0] == pytest.approx(1 / warmup)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    if n_steps >= 100:
        assert rates[(n_steps + warmup) // 2] == pytest.approx(0.5, abs=0.01)
        assert rates[-1] < 1e-3


def test_more_steps_than_announced():
    """As of loaders with workers that each round up: nothing is learned from what is too much."""
    assert [warmup_cosine(step, 100) for step in (100, 101, 195, 295)] == [0.0] * 4


def test_default_rates():
    assert default_lr("adamw", 4096) == 1e-3
    assert default_lr("lars", 4096) == pytest.approx(4.8)  # SimCLR, arXiv 2002.05709
