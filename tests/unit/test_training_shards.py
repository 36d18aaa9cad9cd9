"""Shards: the same gradients as from the parts one after the other, in weights that all copies share."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from stream.training.shards import LEAST_PICTURES, Shards, part_count

pytestmark = pytest.mark.compute

PICTURES = [torch.tensor([float(i), 1.0]) for i in range(1, 7)]


def backward(network: nn.Module, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
    """Batch norm makes the slope depend on which pictures are in a part."""
    value = network(torch.stack(pictures).to(next(network.parameters()))).square().mean()
    value.backward()
    return value.detach()


def gradients(network: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_gradients_and_losses_are_the_mean_of_the_parts(count: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
    each = 6 // count
    wanted, values = [], []
    for part in range(count):
        values.append(backward(network, PICTURES[part * each : (part + 1) * each]))
        wanted.append(gradients(network))
        network.zero_grad()
    with Shards(network, count, 2) as shards:
        result = shards.learn(PICTURES, backward)
        torch.testing.assert_close(result, torch.stack(values).mean())
        torch.testing.assert_close(gradients(network), [torch.stack(g).mean(0) for g in zip(*wanted, strict=True)])


def test_a_step_of_the_optimiser_moves_all_copies_and_their_gradients_are_used_once() -> None:
    network = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    seen: list[torch.Tensor] = []

    def look(copy: nn.Module, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
        seen.append(copy.weight.detach().clone())
        assert copy.weight.grad is None
        return backward(copy, pictures)

    with Shards(network, 2, 2) as shards:
        for _ in range(3):
            shards.learn(PICTURES, look)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    assert all(torch.equal(seen[i], seen[i + 1]) for i in (0, 2, 4))
    assert not torch.equal(seen[0], seen[2])


def test_a_weight_that_only_one_part_reaches_has_its_gradient() -> None:
    network = nn.Linear(2, 1)

    def sometimes(copy: nn.Module, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
        value = copy.weight.sum() if pictures[0] is PICTURES[0] else copy.bias.sum()
        value.backward()
        return value.detach()

    with Shards(network, 2, 2) as shards:
        shards.learn(PICTURES, sometimes)
    assert network.weight.grad.tolist() == [[0.5, 0.5]]
    assert network.bias.grad.tolist() == [0.5]


def test_an_error_in_a_part_comes_out_and_the_threads_end() -> None:
    def fail(copy: nn.Module, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
        raise ValueError("no such picture")

    with pytest.raises(ValueError, match="no such picture"), Shards(nn.Linear(2, 1), 2, 2) as shards:
        shards.learn(PICTURES, fail)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("learn")]


@pytest.mark.parametrize(("threads", "each"), [(2, 1), (8, 4)])
def test_the_parts_share_the_threads(threads: int, each: int) -> None:
    own = torch.get_num_threads()

    def count(copy: nn.Module, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
        copy.weight.sum().backward()
        return torch.tensor(float(torch.get_num_threads()))

    with Shards(nn.Linear(2, 1), 2, threads) as shards:
        assert shards.learn(PICTURES, count) == each
    assert torch.get_num_threads() == own


def test_no_part_is_smaller_than_batch_norm_needs() -> None:
    assert [part_count(batch, 2) for batch in (1, 2, 2 * LEAST_PICTURES - 1, 2 * LEAST_PICTURES, 64)] == [1, 1, 1, 2, 2]
    assert part_count(16, 64) == 16 // LEAST_PICTURES
