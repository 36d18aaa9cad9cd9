"""What pictures of simulated cameras cost: ``pytest -o python_files='bench_*.py' --benchmark-only perf/bench_simulation.py``.

OpenCV is held to one thread, so that a mean of less than 40 ms is 25 frames a second on one core. Moving the people is not
part of the time; encoding is not either.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import cv2
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from stream.simulation.crowd import Crowd
from stream.simulation.render import Rendered, Renderer
from stream.simulation.scene import SCENES, build_scene

FPS = 25.0
SEED = 1
KNOWN = 30  # frames rendered first, so that most figures are made


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """OpenCV on one thread."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(threads)


@pytest.mark.parametrize("people", [10, 40])
@pytest.mark.parametrize("name", SCENES)
def test_render(benchmark: BenchmarkFixture, name: str, people: int) -> None:
    """A frame of 1280x720."""
    scene = build_scene(name, SEED)
    renderer, crowd, numbers = Renderer(scene, FPS), Crowd(scene, people, SEED, FPS), count()
    for _ in range(KNOWN):
        renderer.render(crowd.step(), next(numbers))
    rendered: Rendered = benchmark.pedantic(  # type: ignore[no-untyped-call]
        renderer.render, setup=lambda: ((crowd.step(), next(numbers)), {}), rounds=75, iterations=1
    )
    assert (rendered.visibility > 0).any()


@pytest.mark.parametrize("name", SCENES)
def test_first_picture(benchmark: BenchmarkFixture, name: str) -> None:
    """A scene's backdrop and its first picture with 40 people, as a set of pictures from many seeds needs it."""
    seeds = count(100)

    def scene_and_walkers() -> tuple[tuple[object, ...], dict[str, object]]:
        scene = build_scene(name, next(seeds))
        return (scene, Crowd(scene, 40, SEED, FPS).step()), {}

    def first(scene: object, walkers: object) -> Rendered:
        return Renderer(scene, FPS).render(walkers, 0)  # type: ignore[arg-type]

    rendered: Rendered = benchmark.pedantic(  # type: ignore[no-untyped-call]
        first, setup=scene_and_walkers, rounds=3, iterations=1
    )
    assert len(rendered.boxes)
