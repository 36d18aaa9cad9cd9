"""What ``framewatch train`` spends on a picture: ``pytest -o python_files='bench_*.py' --benchmark-only perf -k training``.

Wall time on all cores, as torch uses them; set OMP_WAIT_POLICY=PASSIVE as the command does. Divide by ``PICTURES``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from stream.training.augment import augmented
from stream.training.backbones import BACKBONES, build_network
from stream.training.data import Cache, Labels
from stream.training.loop import choose_device
from stream.training.loss import Truth, detection_loss
from stream.training.model import grid
from stream.training.validate import to_pixels

PICTURES, PEOPLE = 16, 20
WIDTH, HEIGHT = 448, 256


def labels(rng: np.random.Generator) -> Labels:
    corner = rng.uniform((0, 0), (WIDTH - 40, HEIGHT - 80), (PEOPLE, 2))
    sides = rng.uniform((5, 14), (30, 80), (PEOPLE, 2))
    xyxy = np.hstack((corner, corner + sides)).astype(np.float32)
    return Labels(xyxy, np.zeros(PEOPLE, np.int64), np.zeros(PEOPLE, np.bool_))


@pytest.fixture(scope="module")
def cache() -> Cache:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (PICTURES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    placed = np.tile([WIDTH, HEIGHT - 4], (PICTURES, 1))
    return Cache(images, placed, tuple(labels(rng) for _ in range(PICTURES)), tuple(range(PICTURES)))


@pytest.mark.parametrize("precision", ["auto", "f32"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_training_step(benchmark: BenchmarkFixture, cache: Cache, backbone: str, precision: str) -> None:
    """Forward, loss and backward of a batch."""
    device, dtype = choose_device("cpu", precision)
    network = build_network(backbone, 1, pretrained=False).to(memory_format=torch.channels_last).train()
    cells = grid(WIDTH, HEIGHT, device)
    truths = [Truth(torch.from_numpy(i.xyxy), torch.from_numpy(i.class_id), torch.zeros(0, 4)) for i in cache.labels]

    def step() -> None:
        network.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            raw = network(to_pixels(cache.images, device))
        detection_loss(raw.float(), truths, cells).total.backward()

    benchmark(step)


def test_training_augmentation(benchmark: BenchmarkFixture, cache: Cache) -> None:
    """A batch, on one core."""
    benchmark(lambda: [augmented(cache, i, np.random.default_rng(i), mosaic=0.6) for i in range(PICTURES)])
