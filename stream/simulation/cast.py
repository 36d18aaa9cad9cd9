"""Cast: what each person of a scene looks like, kept while they are in view."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from stream.simulation.dress import draw_build, draw_dress, paint
from stream.simulation.figure import Figure, Layout, make_figure
from stream.simulation.scene import SCENES, Scene

FIGURES_KEPT = 160  # of the people seen last, and more only where more are in view at once; each takes about 0.4 MB


class Cast:
    """The figures of one scene.

    Args:
        scene: the scene; its light decides how warmly people are dressed.
        layouts: the meshes to make.
        expose: turns painted colours into those that the camera sees.
    """

    def __init__(self, scene: Scene, layouts: tuple[Layout, ...], expose: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]):
        self._scene, self._layouts, self._expose = scene, layouts, expose
        self._warm = scene.light.outdoors and scene.light.weather in ("clear", "overcast") and scene.seed % 3 != 0
        self._figures: dict[int, Figure] = {}

    def __len__(self) -> int:
        return len(self._figures)

    def figures(self, person_ids: Iterable[int]) -> list[Figure]:
        """The figures of the people of one frame: always the same for a scene, its seed and the person. Making one takes some
        milliseconds."""
        figures = [self._figure(person_id) for person_id in person_ids]
        while len(self._figures) > max(FIGURES_KEPT, len(figures)):
            del self._figures[next(iter(self._figures))]  # unused for longest: those of this frame are at the end
        return figures

    def _figure(self, person_id: int) -> Figure:
        figure = self._figures.pop(person_id, None)
        if figure is None:
            rng = np.random.default_rng((self._scene.seed, SCENES.index(self._scene.name), person_id))
            build = draw_build(rng)
            dress = draw_dress(rng, build, self._warm)
            atlases = tuple(self._expose(level) for level in paint(rng, dress))
            figure = make_figure(self._layouts, build, dress, atlases)
        self._figures[person_id] = figure
        return figure
