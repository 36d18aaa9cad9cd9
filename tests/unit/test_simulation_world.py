"""The simulated world: cameras, scenes, the people in them, and the truth about both."""

import hashlib
import itertools
import math
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.datasets.coco import CocoAnnotation, CocoImage, read_coco
from stream.simulation.camera import Camera
from stream.simulation.crowd import Crowd, Walkers
from stream.simulation.ground import area, box, clip, contains, disc, outset, rectangle
from stream.simulation.labels import Labels
from stream.simulation.paths import Paths
from stream.simulation.render import Rendered
from stream.simulation.scene import SCENES, Scene, build_scene
from stream.simulation.truth import TruthCounter, true_counts
from stream.simulation.video import Shot, merge

pytestmark = pytest.mark.compute

cameras = st.builds(
    lambda f, h, tilt, pan, barrel: Camera(1280, 720, f, (1.0, -2.0, h), tilt, pan, -barrel, 0.15 * barrel),
    st.floats(600, 1600),
    st.floats(3, 9),
    st.floats(0.15, 0.9),
    st.floats(-1, 1),
    st.floats(0, 0.16),
)


class TestCamera:
    @settings(max_examples=60, deadline=None)
    @given(cameras, st.floats(0, 1280), st.floats(0, 720))
    def test_ground_undoes_project(self, camera: Camera, x: float, y: float) -> None:
        ground = camera.ground([(x, y)])
        if np.isnan(ground).any() or np.abs(ground).max() > 500:  # the horizon, where a pixel is a kilometre
            return
        again = camera.project(np.column_stack((ground, [0.0])))
        np.testing.assert_allclose(again, [(x, y)], atol=1e-3)

    def test_a_point_straight_ahead_is_in_the_middle(self) -> None:
        camera = Camera(640, 480, 500, (0, 0, 5), math.atan(0.5), 0.0)
        np.testing.assert_allclose(camera.project([(0, 10, 0)]), [(320, 240)], atol=1e-9)
        np.testing.assert_allclose(camera.depth_m([(0, 10, 0)]), math.hypot(10, 5))

    def test_right_is_right_and_up_is_up(self) -> None:
        camera = Camera(640, 480, 500, (0, 0, 5), 0.4, 0.0)
        (left, right, near, high) = camera.project([(-1, 10, 0), (1, 10, 0), (0, 8, 0), (0, 10, 1.7)])
        assert left[0] < 320 < right[0]
        assert near[1] > left[1] > high[1]

    def test_pan_turns_to_the_left(self) -> None:
        assert Camera(640, 480, 500, (0, 0, 5), 0.4, 0.2).project([(0, 10, 0)])[0, 0] > 320

    def test_nothing_is_seen_behind_nor_above_the_horizon(self) -> None:
        camera = Camera(640, 480, 500, (0, 0, 5), 0.1, 0.0)
        assert np.isnan(camera.project([(0, -3, 0)])).all()
        assert np.isnan(camera.ground([(320, 0)])).all()
        assert not camera.inside(camera.project([(0, -3, 0)]))[0]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"width": 0}, "no area"),
            ({"focal_px": 0}, "focal_px"),
            ({"position_m": (0, 0, 0)}, "above the ground"),
            ({"k1": -2.0}, "fold"),
        ],
    )
    def test_an_impossible_one_is_refused(self, change: dict[str, object], message: str) -> None:
        fields = {"width": 640, "height": 480, "focal_px": 500, "position_m": (0, 0, 5), "tilt_rad": 0.3, "pan_rad": 0}
        with pytest.raises(ValueError, match=message):
            Camera(**(fields | change))  # type: ignore[arg-type]


class TestGround:
    def test_polygons_go_counter_clockwise(self) -> None:
        assert area(box(3, 4, 1, 1)) == pytest.approx(6)
        assert area(rectangle((5, 5), 2, 3, 0.7)) == pytest.approx(6)
        assert area(disc((0, 0), 1, 200)) == pytest.approx(math.pi, rel=1e-3)

    def test_outset_moves_every_side(self) -> None:
        np.testing.assert_allclose(outset(box(0, 0, 2, 1), 0.5), box(-0.5, -0.5, 2.5, 1.5))

    def test_clip_cuts_off_what_is_outside(self) -> None:
        assert area(clip(box(-1, -1, 2, 2), 0, 0, 1, 1)) == pytest.approx(1)
        assert len(clip(box(2, 2, 3, 3), 0, 0, 1, 1)) == 0

    def test_a_way_leads_around_what_stands_in_it(self) -> None:
        wall = box(-1, 4, 4, 4.5)
        paths = Paths(box(-5, 0, 5, 10), [wall])
        way = [np.array((0.0, 1.0)), *paths.find(np.array((0.0, 1.0)), np.array((0.0, 9.0)))]
        assert len(way) == 4
        assert all(x < -1 for x, _ in way[1:-1])  # the shorter side
        steps = np.concatenate([a + (b - a) * np.linspace(0, 1, 50)[:, None] for a, b in itertools.pairwise(way)])
        assert not contains(wall, steps).any()


class TestScene:
    @pytest.mark.parametrize("name", SCENES)
    def test_its_zones_and_lines_can_be_seen(self, name: str) -> None:
        for seed in range(5):
            scene = build_scene(name, seed)
            assert 3 <= scene.camera.position_m[2] <= 11
            assert len(scene.zones) == 2
            for zone in scene.zones:
                polygon = np.array(zone.polygon)
                assert polygon.min() > 0.02
                assert polygon.max() < 0.98
                assert abs(area(polygon)) > 0.01, f"{name} {seed} {zone.name}"
            for line in scene.lines:
                assert math.dist(*line.points) > 0.06, f"{name} {seed} {line.name}"

    @pytest.mark.parametrize("name", SCENES)
    def test_the_heads_of_those_in_a_zone_can_be_seen(self, name: str) -> None:
        for seed in range(5):
            scene = build_scene(name, seed)
            size = (scene.camera.width, scene.camera.height)
            for zone in scene.zones:
                feet = scene.camera.ground(np.array(zone.polygon) * size)
                heads = scene.camera.project(np.column_stack((feet, np.full(len(feet), 1.75))))
                assert heads[:, 1].min() > 0, f"{name} {seed} {zone.name}"

    def test_those_who_queue_in_a_shop_stand_side_by_side_for_the_camera(self) -> None:
        for seed in range(5):
            scene = build_scene("shop", seed)
            places = scene.queues[0].places_m
            x, y = scene.camera.project(np.column_stack((places, np.zeros(len(places))))).T
            assert np.ptp(x) > 2 * np.ptp(y), seed

    @pytest.mark.parametrize("name", SCENES)
    def test_everybody_can_get_from_gate_to_gate(self, name: str) -> None:
        for seed in range(4):
            scene = build_scene(name, seed)
            paths = Paths(scene.walkable, [obstacle.polygon_m for obstacle in scene.obstacles])
            inner = []
            for gate in scene.gates:
                inward = 0.4 * np.array((math.cos(gate.inward_rad), math.sin(gate.inward_rad)))
                inner.append((np.array(gate.a_m) + gate.b_m) / 2 + inward)
            assert contains(scene.walkable, np.array(inner)).all()
            for a in inner:
                for b in inner:
                    way = [a, *paths.find(a, b)]
                    assert paths.sees(np.array(way[:-1]), np.array(way[1:])).all(), f"{name} {seed}"

    def test_seed_and_name_make_it(self) -> None:
        one, same, other = build_scene("street", 3), build_scene("street", 3), build_scene("street", 5)
        assert one.camera == same.camera != other.camera
        assert one.zones == same.zones != other.zones
        assert all((a.polygon_m == b.polygon_m).all() for a, b in zip(one.obstacles, same.obstacles, strict=True))

    def test_zones_keep_their_place_at_another_size(self) -> None:
        large, small = build_scene("plaza", 5), build_scene("plaza", 5, 640, 360)
        np.testing.assert_allclose(large.zones[0].polygon, small.zones[0].polygon, atol=2e-4)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [(("plazza", 1), "plazza"), (("plaza", -1), "-1"), (("plaza", 1, 360, 640), "360x640 is too tall")],
    )
    def test_what_cannot_be_built_is_named(self, arguments: tuple[str, int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            build_scene(*arguments)


RUN = """
import hashlib
from stream.simulation.crowd import Crowd
from stream.simulation.scene import build_scene
crowd, digest = Crowd(build_scene("plaza", 7), 25, 7, 25), hashlib.sha256()
for _ in range(30):
    digest.update(crowd.step().position_m.tobytes())
print(digest.hexdigest())
"""


class TestCrowd:
    @pytest.mark.parametrize(("name", "seed"), [("plaza", 2), ("corridor", 1), ("shop", 3), ("street", 5), ("station", 5)])
    def test_people_walk_as_people_do(self, name: str, seed: int) -> None:
        scene = build_scene(name, seed)
        crowd = Crowd(scene, 30, seed, 10)
        before: Walkers | None = None
        last_id, stood, in_groups = 0, 0, 0
        speeds: list[float] = []
        for _ in range(100):
            now = crowd.step()
            assert abs(len(now) - 30) <= 0.15 * 30 + 1
            assert contains(scene.walkable, now.position_m).all()
            for obstacle in scene.obstacles:
                assert not contains(obstacle.polygon_m, now.position_m).any(), obstacle.kind
            gaps = np.linalg.norm(now.position_m[None] - now.position_m[:, None], axis=2)
            np.fill_diagonal(gaps, np.inf)
            assert gaps.min() > 0.3  # nobody walks through anybody
            assert (np.diff(now.person_id) > 0).all()
            assert ((now.gait >= 0) & (now.gait < 1)).all()
            if before is not None:
                new = now.person_id[~np.isin(now.person_id, before.person_id)]
                assert (new > last_id).all()
                _, i, j = np.intersect1d(before.person_id, now.person_id, return_indices=True)
                assert np.linalg.norm(now.position_m[j] - before.position_m[i], axis=1).max() < 0.35  # in 0.1 s
            last_id = max(last_id, int(now.person_id.max()))
            stood += int((now.speed_m_s < 0.1).sum())
            in_groups += int((now.group >= 0).sum())
            speeds += now.speed_m_s[now.speed_m_s > 0.4].tolist()
            before = now
        assert 0.8 < float(np.mean(speeds)) < 1.6
        assert stood > 0
        assert in_groups > 0

    def test_it_begins_with_people_all_over(self) -> None:
        scene = build_scene("plaza", 1)
        walkers = Crowd(scene, 40, 1, 25).step()
        assert 36 <= len(walkers) <= 42
        spread = walkers.position_m.std(axis=0)
        assert (spread > 0.12 * np.ptp(scene.walkable, axis=0)).all()

    def test_people_queue(self) -> None:
        scene = build_scene("shop", 1)
        crowd = Crowd(scene, 20, 1, 5)
        served = 0
        for _ in range(150):
            walkers = crowd.step()
            head = np.linalg.norm(walkers.position_m - scene.queues[0].places_m[0], axis=1) < 0.4
            second = np.linalg.norm(walkers.position_m - scene.queues[0].places_m[1], axis=1) < 0.4
            served += bool((walkers.speed_m_s[head] < 0.2).any() and second.any())
        assert served > 20, served

    def test_another_process_makes_the_same_to_the_last_bit(self) -> None:
        root = Path(__file__).resolve().parents[2]
        run = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, cwd=root, timeout=60)
        crowd, digest = Crowd(build_scene("plaza", 7), 25, 7, 25), hashlib.sha256()
        for _ in range(30):
            digest.update(crowd.step().position_m.tobytes())
        assert run.stdout.strip() == digest.hexdigest(), run.stderr

    def test_nobody_is_no_trouble(self) -> None:
        crowd = Crowd(build_scene("shop", 1), 0, 1, 25)
        assert [len(crowd.step()) for _ in range(5)] == [0] * 5

    @pytest.mark.parametrize(("people", "fps", "message"), [(-1, 25, "not -1"), (5000, 25, "not 5000"), (3, 0, "fps")])
    def test_what_cannot_be_is_named(self, people: int, fps: float, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Crowd(build_scene("plaza", 1), people, 1, fps)


def walkers_at(scene: Scene, points: dict[int, tuple[float, float]]) -> Walkers:
    """People whose foot points are at these places in the picture, normalised."""
    n = len(points)
    pixels = np.array(list(points.values())).reshape(-1, 2) * (scene.camera.width, scene.camera.height)
    zeros = np.zeros(n)
    return Walkers(np.array(list(points), np.int64), scene.camera.ground(pixels), zeros, zeros, zeros, np.full(n, -1))


class TestTruth:
    @pytest.fixture
    def scene(self) -> Scene:
        return build_scene("plaza", 1)

    def test_who_stands_in_a_zone_is_in_it(self, scene: Scene) -> None:
        x, y = np.mean(scene.zones[0].polygon, axis=0)
        counter = TruthCounter(scene)
        frame = counter.observe(walkers_at(scene, {4: (float(x), float(y)), 5: (0.01, 0.99)}))
        assert frame.inside == {"square": {4}, "terrace": frozenset()}

    @pytest.mark.parametrize(("start", "end", "direction"), [(-0.12, 0.12, "in"), (0.12, -0.12, "out")])
    def test_above_a_line_drawn_to_the_right_is_its_left(self, scene: Scene, start: float, end: float, direction: str) -> None:
        (x0, y0), (x1, y1) = scene.lines[0].points
        assert x0 < x1
        x, y, counter = (x0 + x1) / 2, (y0 + y1) / 2, TruthCounter(scene)
        for shift in np.linspace(start, end, 12):
            counter.observe(walkers_at(scene, {9: (x, y + float(shift))}))
        assert [(c.person_id, c.direction, c.line) for c in counter.truth(25).crossings] == [(9, direction, "passage")]

    def test_who_sways_on_a_line_or_passes_beside_it_does_not_cross(self, scene: Scene) -> None:
        (x0, y0), (x1, y1) = scene.lines[0].points
        x, y, counter = (x0 + x1) / 2, (y0 + y1) / 2, TruthCounter(scene)
        for i in range(12):
            beside = (x1 + 0.02, y1 + (i - 6) * 0.02)
            counter.observe(walkers_at(scene, {1: (x, y + (0.001 if i % 2 else -0.001)), 2: beside}))
        assert counter.truth(25).crossings == ()

    def test_its_events_say_the_same(self, scene: Scene) -> None:
        truth = true_counts(scene, 20, 10, 6.5)
        events = truth.events("cam", 1_767_225_600.0)
        assert len(truth.frames) == 65
        for zone in truth.zones:
            own = [event for event in events if event.zone == zone]
            assert [event.frames for event in own] == [10] * 6 + [5]
            assert [event.window_start.timestamp() for event in own] == [1_767_225_600.0 + i for i in range(7)]
            counted = truth.occupancy(zone)
            for i, event in enumerate(own[:-1]):
                second = counted[10 * i : 10 * i + 10]
                assert event.occupancy is not None
                assert event.occupancy.mean == pytest.approx(second.mean())
                assert event.occupancy.last == second[-1]
                assert event.occupancy.max >= second.max()
            came, went = (sum(getattr(event, key) for event in own) for key in ("entered", "left"))
            assert came - went == counted[-1]
        crossed = sum(sum(event.crossings.values()) for event in events if event.crossings)
        assert crossed == len(truth.crossings)


class TestLabels:
    def rendered(self, *boxes: tuple[float, float, float, float], visibility: float = 1.0) -> Rendered:
        found = np.array(boxes, np.float32).reshape(-1, 4)
        return Rendered(np.zeros((1, 1, 3), np.uint8), found, found, np.full(len(found), visibility, np.float32))

    def walkers(self, *ids: int) -> Walkers:
        zeros = np.zeros(len(ids))
        return Walkers(np.array(ids, np.int64), np.zeros((len(ids), 2)), zeros, zeros, zeros, np.full(len(ids), -1))

    def test_coco_lists_the_pictures_and_tracks_all_frames(self, tmp_path: Path) -> None:
        labels = Labels(64, 48, as_files=True)
        labels.add(0, self.walkers(3, 4), self.rendered((1, 2, 11, 32), (0, 0, 0, 0)), listed=True)
        labels.add(1, self.walkers(3), self.rendered((2, 2, 12, 32)), listed=False)
        labels.add(2, self.walkers(), self.rendered(), listed=True)
        labels.add(3, self.walkers(3, 5), self.rendered((3, 2, 13, 32), (4, 5, 9, 45), visibility=0.1), listed=True)
        labels.write_coco(tmp_path / "coco.json")
        dataset = read_coco(tmp_path / "coco.json")
        names = [f"images/00000{index}.jpg" for index in (0, 2, 3)]
        assert dataset.images == [CocoImage(id=i, file_name=name, width=64, height=48) for i, name in enumerate(names, 1)]
        assert dataset.annotations == [
            CocoAnnotation(id=i, image_id=image, category_id=1, bbox=box, area=area, iscrowd=crowd, visibility=seen)
            for i, (image, box, area, crowd, seen) in enumerate(
                [(1, (1, 2, 10, 30), 300, 0, 1.0), (3, (3, 2, 10, 30), 300, 1, 0.1), (3, (4, 5, 5, 40), 200, 1, 0.1)], 1
            )
        ]
        assert dataset.class_names == ("person",)
        table = labels.table()
        assert table.frame.tolist() == [1, 2, 4, 4]
        assert table.track_id.tolist() == [3, 3, 3, 5]
        assert table.confidence.tolist() == [1, 1, 0, 0]

    def test_frames_of_the_video_have_their_index(self, tmp_path: Path) -> None:
        labels = Labels(64, 48, as_files=False)
        labels.add(0, self.walkers(), self.rendered(), listed=True)
        labels.write_coco(tmp_path / "coco.json")
        assert read_coco(tmp_path / "coco.json").images == [
            CocoImage(id=1, file_name="video.mp4", width=64, height=48, frame_index=0)
        ]
        assert len(labels.table()) == 0

    def test_a_box_takes_less_than_a_hundred_bytes(self) -> None:
        labels, count = Labels(64, 48, as_files=False), 200
        crowd, rendered = self.walkers(*range(count)), self.rendered(*[(1.0, 2.0, 11.0, 32.0)] * count)
        labels.add(0, crowd, rendered, listed=True)
        tracemalloc.start()
        try:
            for index in range(1, 51):
                labels.add(index, crowd, rendered, listed=True)
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert grown < 100 * 50 * count


class TestShot:
    def test_its_pictures_come_evenly(self) -> None:
        shot = Shot("plaza", 1, (5, 5), 4, fps=25, pictures_fps=2)
        assert [i for i in range(shot.frames) if shot.pictured(i)] == [0, 13, 25, 38, 50, 63, 75, 88]
        assert sum(Shot("plaza", 1, (5, 5), 4, pictures_fps=99).pictured(i) for i in range(100)) == 100
        assert not Shot("plaza", 1, (5, 5), 4).pictured(0)

    def test_label_files_are_merged_by_folder(self) -> None:
        from stream.datasets.coco import CocoDataset

        one = CocoDataset.model_validate(
            {
                "images": [{"id": 1, "file_name": "images/0.jpg", "width": 4, "height": 4}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": (0, 0, 2, 2), "area": 4}],
                "categories": [{"id": 1, "name": "person"}],
            }
        )
        merged = merge({"a": one, "b": one})
        assert [(image.id, image.file_name) for image in merged.images] == [(1, "a/images/0.jpg"), (2, "b/images/0.jpg")]
        assert [(a.id, a.image_id) for a in merged.annotations] == [(1, 1), (2, 2)]
