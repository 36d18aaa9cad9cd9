"""The pictures of simulated cameras: figures, what hides them, and the truth that is told about them."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from stream.simulation.backdrop import SKY_M, paint_backdrop
from stream.simulation.camera import Camera
from stream.simulation.cast import Cast
from stream.simulation.crowd import Walkers
from stream.simulation.dress import draw_build, draw_dress, paint
from stream.simulation.figure import PARTS, make_figure, make_layouts
from stream.simulation.imaging import Imaging, draw_optics
from stream.simulation.pose import Motion, pose
from stream.simulation.raster import Easel, extents, project, skin
from stream.simulation.render import Rendered, Renderer
from stream.simulation.scene import SCENES, Obstacle, Scene, build_scene

pytestmark = pytest.mark.compute

WIDTH, HEIGHT = 640, 360
CAMERA = Camera(WIDTH, HEIGHT, 480.0, (0.0, 0.0, 4.0), 0.42, 0.0, -0.10, 0.015)


def field(*obstacles: Obstacle, camera: Camera = CAMERA, name: str = "plaza", seed: int = 3) -> Scene:
    """A scene with nothing in it but ``obstacles``."""
    square = np.array([(-20.0, 1.0), (20.0, 1.0), (20.0, 30.0), (-20.0, 30.0)])
    return replace(build_scene(name, seed, WIDTH, HEIGHT), camera=camera, obstacles=obstacles, surfaces=(), walkable=square)


def walkers(*places: tuple[float, float], first: int = 1, speed: float = 0.0, heading: float = 0.7) -> Walkers:
    count = len(places)
    return Walkers(
        person_id=np.arange(first, first + count),
        position_m=np.array(places, np.float64).reshape(-1, 2),
        heading_rad=np.full(count, heading),
        speed_m_s=np.full(count, speed),
        gait=np.linspace(0, 0.9, count),
        group=np.full(count, -1),
    )


def wall(left: float, near: float, right: float, far: float, height_m: float) -> Obstacle:
    return Obstacle(np.array([(left, near), (right, near), (right, far), (left, far)]), height_m, "wall")


class Stand:
    """The figures of a crowd, posed and projected one by one by the public parts, to check the renderer against."""

    def __init__(self, scene: Scene, crowd: Walkers, frame_index: int = 0, fps: float = 25.0):
        layouts = make_layouts()
        self.layout, self.easel = layouts[0], Easel(scene.camera)
        cast = Cast(scene, layouts, Imaging(scene, fps).expose)
        self.figures = cast.figures(crowd.person_id.tolist())
        habit = np.asarray(crowd.person_id * 0.6180339887 % 1.0, np.float64)
        motion = Motion(crowd.position_m, crowd.heading_rad, crowd.speed_m_s, crowd.gait, habit, frame_index / fps)
        self.vertices, _ = skin(self.layout, [f.meshes[0] for f in self.figures], pose(self.figures, motion))
        self.seen = project(scene.camera, self.vertices)
        self.boxes = extents(self.layout, self.seen, np.stack([f.worn for f in self.figures]))

    def depths(self, row: int, camera: Camera) -> np.ndarray:
        """Distance of one figure in every pixel of the picture."""
        figure = self.figures[row]
        bounds = (0, 0, camera.width, camera.height)
        shade = np.ones(self.seen.shape[2], np.float32)
        return self.easel.draw(figure.meshes[0], self.layout, figure.atlases, self.seen[row], shade, bounds).depth_m.copy()


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(field(), 25.0)


def same(a: Rendered, b: Rendered) -> bool:
    pairs = ((a.bgr, b.bgr), (a.boxes, b.boxes), (a.full_boxes, b.full_boxes), (a.visibility, b.visibility))
    return all(np.array_equal(x, y) for x, y in pairs)


def test_shapes_and_types(renderer: Renderer) -> None:
    rendered = renderer.render(walkers((0, 8), (2, 9), (-3, 12)), 4)
    assert rendered.bgr.shape == (HEIGHT, WIDTH, 3)
    assert rendered.bgr.dtype == np.uint8
    for boxes in (rendered.boxes, rendered.full_boxes):
        assert boxes.shape == (3, 4)
        assert boxes.dtype == np.float32
    assert rendered.visibility.shape == (3,)
    assert rendered.visibility.dtype == np.float32


def test_nobody(renderer: Renderer) -> None:
    rendered = renderer.render(walkers(), 0)
    assert len(rendered.boxes) == len(rendered.full_boxes) == len(rendered.visibility) == 0
    assert rendered.bgr.std() > 1


def test_the_same_seed_gives_the_same_picture() -> None:
    crowd = walkers((0, 8), (1, 9), (-3, 12), speed=1.2)
    first, second = (Renderer(field(), 25.0) for _ in range(2))
    second.render(walkers((4, 8), first=70), 0)  # what was drawn before makes no difference
    assert same(first.render(crowd, 7), second.render(crowd, 7))
    assert not np.array_equal(first.render(crowd, 7).bgr, first.render(crowd, 8).bgr)


def test_another_seed_gives_other_people() -> None:
    crowd = walkers((0, 8), (2, 9))
    one, other = (Renderer(field(seed=seed), 25.0).render(crowd, 0) for seed in (3, 4))
    assert not np.allclose(one.full_boxes, other.full_boxes, atol=0.5)


@pytest.mark.parametrize("speed", [0.0, 1.4])
def test_boxes_are_tight(speed: float) -> None:
    crowd = walkers(*((x, y) for y in (6.0, 9.0, 14.0) for x in (-1.5, 0.0, 1.5)), speed=speed)
    scene = field()
    stand, rendered = Stand(scene, crowd), Renderer(scene, 25.0).render(crowd, 0)
    for row in range(len(crowd)):
        ys, xs = np.nonzero(stand.depths(row, CAMERA) < SKY_M)
        truth = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert np.abs(rendered.boxes[row] - truth).max() <= 1.5, row


@pytest.mark.parametrize("ahead_m", [7.0, 40.0])
def test_one_pixel_of_a_figure_can_be_drawn(ahead_m: float) -> None:
    """Of who has just come into a corner of the picture; of a far figure, which is drawn at twice the size, too."""
    stand = Stand(field(), walkers((0.0, ahead_m)))
    x, y = ((stand.boxes[0, :2] + stand.boxes[0, 2:]) / 2).astype(int).tolist()
    figure, shade = stand.figures[0], np.ones(stand.seen.shape[2], np.float32)
    patch = stand.easel.draw(figure.meshes[0], stand.layout, figure.atlases, stand.seen[0], shade, (x, y, x + 1, y + 1))
    assert patch.mask.tolist() == [[255]]
    assert patch.bgr.shape == (1, 1, 3)


def test_the_drawn_pixels_lie_in_the_box() -> None:
    """Seen from outside: nothing but the box changes when someone steps in, apart from the shadow and the lens's blur."""
    overcast = replace(field().light, direct=0.0, weather="clear")
    scene = replace(field(), light=overcast)
    empty, one = (Renderer(scene, 25.0).render(crowd, 0) for crowd in (walkers(), walkers((0.3, 7))))
    changed = np.abs(empty.bgr.astype(int) - one.bgr).max(axis=2) > 24
    x0, y0, x1, y1 = one.boxes[0]
    ys, xs = np.nonzero(changed)
    above = ys < y1 - 12  # the dark spot of the feet lies below
    assert changed.sum() > 200
    assert xs[above].min() >= x0 - 3
    assert xs[above].max() <= x1 + 3
    assert ys.min() >= y0 - 3


def test_visibility_equals_brute_force() -> None:
    """Against a pixel-exact z-buffer on a picture large enough to hold every figure whole."""
    places = (
        (0, 6.5),
        (0.25, 7.4),
        (-0.2, 8.2),
        (2.1, 7),
        (2.3, 7.6),
        (-3.45, 6.0),
        (-3.6, 6.9),
        (3.9, 6.4),
        (0.4, 4.4),
        (-1.6, 9),
    )
    crowd = walkers(*places, speed=1.0)
    box = wall(-2.4, 8.0, -1.2, 8.4, 1.0)
    scene = field(box)
    rendered = Renderer(scene, 25.0).render(crowd, 0)
    large = replace(CAMERA, width=WIDTH * 3, height=HEIGHT * 3)  # the same lens before a larger sensor
    stand = Stand(replace(scene, camera=large), crowd)
    solid = np.full((HEIGHT * 3, WIDTH * 3), SKY_M, np.float32)
    solid[HEIGHT : 2 * HEIGHT, WIDTH : 2 * WIDTH] = paint_backdrop(scene).depth_m
    depths = np.stack([stand.depths(row, large) for row in range(len(crowd))])
    nearest = np.minimum(depths.min(axis=0), solid)
    inside = np.zeros(solid.shape, bool)
    inside[HEIGHT : 2 * HEIGHT, WIDTH : 2 * WIDTH] = True
    truth = np.array([(one[inside] <= nearest[inside])[one[inside] < SKY_M].sum() / (one < SKY_M).sum() for one in depths])
    assert 0 < truth.min() < 0.6
    assert (truth > 0.9).any()
    assert np.abs(rendered.visibility - truth).max() <= 0.03


def test_who_is_nearer_hides_who_is_behind(renderer: Renderer) -> None:
    near_first = renderer.render(walkers((0, 6), (0, 6.8)), 0)
    assert near_first.visibility[0] == pytest.approx(1.0)
    assert near_first.visibility[1] < 0.6
    crowd = walkers((0, 6), (0, 6.8))
    turned = Walkers(*(getattr(crowd, name)[::-1] for name in Walkers.__dataclass_fields__))
    far_first = renderer.render(turned, 0)
    assert np.array_equal(far_first.visibility, near_first.visibility[::-1])
    assert np.array_equal(far_first.bgr, near_first.bgr)


def test_solid_things_hide_who_is_behind_them_and_not_who_is_before() -> None:
    scene = field(wall(-3, 9.0, 3, 9.3, 3.5))
    rendered = Renderer(scene, 25.0).render(walkers((0, 8), (0.5, 10.2), (5.5, 10.2)), 0)
    assert rendered.visibility.tolist() == [1.0, 0.0, 1.0]
    assert (rendered.boxes[1, 2:] > rendered.boxes[1, :2]).all()  # the box of a hidden person is told all the same


def test_a_low_thing_hides_the_legs() -> None:
    free, hidden = (Renderer(field(*o), 25.0).render(walkers((0, 9)), 0) for o in ((), (wall(-2, 8.0, 2, 8.3, 0.9),)))
    assert free.visibility[0] == 1.0
    assert 0.2 < hidden.visibility[0] < 0.8
    assert np.array_equal(free.boxes, hidden.boxes)


def test_people_outside_the_picture(renderer: Renderer) -> None:
    rendered = renderer.render(walkers((-15, 6), (0, -3), (0, 8)), 0)
    assert rendered.visibility[:2].tolist() == [0.0, 0.0]
    assert not rendered.boxes[:2].any()
    assert not rendered.full_boxes[1].any()  # behind the camera
    assert rendered.visibility[2] == 1.0


def test_people_at_the_edge_are_cut_off(renderer: Renderer) -> None:
    edge = renderer.render(walkers((-5.15, 7.0)), 0)
    assert edge.full_boxes[0, 0] < 0 < edge.full_boxes[0, 2]
    assert edge.boxes[0, 0] == 0
    assert edge.boxes[0, 2] == edge.full_boxes[0, 2]
    assert 0.05 < edge.visibility[0] < 0.95


def test_no_more_figures_are_kept_than_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.simulation.cast.FIGURES_KEPT", 5)
    cast = Cast(field(), make_layouts(), lambda picture: picture)
    first, second = cast.figures([0, 1])
    for person in range(2, 6):
        cast.figures([person, 1])
    assert len(cast) == 5
    again, kept = cast.figures([0, 1])
    assert again is not first  # forgotten, and made again the same
    assert kept is second
    assert np.array_equal(again.meshes[0].vertices, first.meshes[0].vertices)
    assert np.array_equal(again.atlases[0], first.atlases[0])


def test_whoever_is_in_view_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.simulation.cast.FIGURES_KEPT", 3)
    cast = Cast(field(), make_layouts(), lambda picture: picture)
    crowd = cast.figures(range(6))
    assert all(one is same for one, same in zip(crowd, cast.figures(range(6)), strict=True))
    cast.figures([7])
    assert len(cast) == 3


def test_projection_is_that_of_the_camera() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform((-5, 4, 0), (5, 30, 2), (200, 3))
    seen = project(CAMERA, points.T[None].astype(np.float32))[0]
    assert np.abs(seen[:2].T - CAMERA.project(points)).max() < 0.01
    assert np.abs(seen[2] - CAMERA.depth_m(points)).max() < 1e-4


def test_every_vertex_follows_its_bones_wholly() -> None:
    for layout in make_layouts():
        assert np.allclose(layout.weights.sum(axis=0), 1)
        assert all(layout.part(part).stop > layout.part(part).start for part in PARTS)


def test_figures_are_as_tall_as_their_build_and_stand_on_the_ground() -> None:
    layouts = make_layouts()
    heights = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        build = draw_build(rng)
        figure = make_figure(layouts, build, draw_dress(rng, build, warm=bool(seed % 2)), ())
        motion = Motion(np.zeros((1, 2)), np.zeros(1), np.zeros(1), np.zeros(1), np.full(1, 0.3), 0.0)
        vertices, normals = skin(layouts[0], [figure.meshes[0]], pose([figure], motion))
        body = vertices[0, :, layouts[0].part("head")]
        assert vertices[0, 2].min() == pytest.approx(0, abs=1e-5)
        assert body[:, 2].max() == pytest.approx(build.height_m, rel=0.03)
        lengths = np.linalg.norm(normals[0], axis=0)
        assert np.median(lengths) == pytest.approx(1, abs=0.01)
        heights.append(build.height_m)
    assert min(heights) < 1.6
    assert max(heights) > 1.8


def test_a_walking_figure_moves_its_legs() -> None:
    layouts = make_layouts()
    rng = np.random.default_rng(5)
    build = draw_build(rng)
    figure = make_figure(layouts, build, draw_dress(rng, build, warm=True), ())
    apart = []
    for gait in (0.0, 0.25, 0.5):
        motion = Motion(np.zeros((1, 2)), np.full(1, np.pi / 2), np.full(1, 1.4), np.full(1, gait), np.full(1, 0.3), 0.0)
        vertices, _ = skin(layouts[0], [figure.meshes[0]], pose([figure], motion))
        left, right = (vertices[0, 1, layouts[0].part(foot)].mean() for foot in ("left_foot", "right_foot"))
        apart.append(left - right)
    assert apart[0] > 0.35 * build.height_m / 1.7  # the left heel is put down in front
    assert apart[2] < -0.35 * build.height_m / 1.7
    assert abs(apart[1]) < 0.2


def test_dress_varies() -> None:
    colours, hair, bags = set(), set(), set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        dress = draw_dress(rng, draw_build(rng), warm=False)
        colours.add(dress.top_colour)
        hair.add(dress.hair)
        bags.add(dress.bag)
        atlas = paint(rng, dress)
        assert [level.shape[0] for level in atlas] == [256, 128, 64, 32]
    assert len(colours) > 50
    assert len(hair) >= 6
    assert len(bags) >= 4


@pytest.mark.parametrize("name", SCENES)
def test_every_scene_has_a_picture(name: str) -> None:
    scene = build_scene(name, 11, 320, 180)
    backdrop = paint_backdrop(scene)
    assert backdrop.bgr.shape == (180, 320, 3)
    assert 20 < backdrop.bgr.mean() < 235
    assert backdrop.bgr.std() > 8
    assert backdrop.ground.mean() > 0.2
    assert np.array_equal(backdrop.bgr, paint_backdrop(scene).bgr)


def test_solid_things_are_where_the_camera_sees_them() -> None:
    box = wall(-1.0, 9.0, 1.0, 10.0, 1.2)
    backdrop = paint_backdrop(field(box))
    front = np.array([(0.0, 9.0, 0.6), (-0.9, 9.0, 0.2), (0.9, 9.0, 1.1)])
    for (x, y), depth in zip(CAMERA.project(front), CAMERA.depth_m(front), strict=True):
        assert backdrop.depth_m[int(y), int(x)] == pytest.approx(depth, rel=0.01)
        assert not backdrop.ground[int(y), int(x)]
    left = CAMERA.project([(-3.0, 9.0, 0.0)])[0]
    assert backdrop.depth_m[int(left[1]), int(left[0])] == SKY_M
    assert backdrop.ground[int(left[1]), int(left[0])]


def test_a_bent_lens_bends_the_picture() -> None:
    edge = wall(-4.0, 14.0, 4.0, 14.2, 2.5)
    straight, bent = (paint_backdrop(field(edge, camera=replace(CAMERA, k1=k1, k2=0.0))).depth_m < SKY_M for k1 in (0.0, -0.15))
    tops = [cv2.boundingRect(mask.astype(np.uint8)) for mask in (straight, bent)]
    assert tops[0] != tops[1]


def test_noise_and_clock_change_from_frame_to_frame() -> None:
    scene = next(s for s in (field(seed=seed) for seed in range(40)) if draw_optics(s).clock)
    imaging = Imaging(scene, 25.0)
    grey = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    first, next_frame, later = (imaging.apply(grey.copy(), index).astype(int) for index in (0, 1, 2000))
    difference = np.abs(first - next_frame)
    assert 0.2 < difference.mean() < 12
    assert (np.abs(first - later)[:40, WIDTH // 2 :] > 80).any()  # the clock


def test_a_frame_rate_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="fps must be positive, not 0"):
        Renderer(field(), 0)
