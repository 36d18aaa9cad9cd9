"""Layouts: what the scenes look like on the ground, and from where their cameras watch.

A layout draws its sizes and what stands where from the seed, and draws zones and lines where an operator would: on the
ways that people take, near enough to see them well, with nothing tall between them and the camera.
"""

from __future__ import annotations

import math

import numpy as np

from stream.simulation.ground import box, disc, gap, rectangle
from stream.simulation.placing import (
    OUT_OF_SIGHT_M,
    PASSAGE_M,
    QUEUE_STEP_M,
    Placer,
    across,
    find_spots,
    gate_in,
    hides,
    line_up,
    one_of,
    open_gate,
    strip,
    visible_field,
    wall_height_m,
)
from stream.simulation.scene import Layout, Mix, Obstacle, ObstacleKind, Plan, Queue, Site, Surface, View

WALL_FURNITURE: tuple[tuple[ObstacleKind, float, float], ...] = (
    ("bench", 0.45, 0.45),
    ("planter", 0.4, 0.6),
    ("machine", 0.7, 1.85),
    ("shelf", 0.35, 1.1),
)
"""What stands along the walls of a corridor: kind, depth, height."""
OVERLAP_M = 0.4  # that a zone reaches beyond a wall, as it is drawn by hand: nobody can be there
KERB_FURNITURE: tuple[tuple[ObstacleKind, float, float], ...] = (
    ("bollard", 0.09, 0.9),
    ("bollard", 0.12, 0.7),
    ("planter", 0.3, 0.7),
    ("machine", 0.3, 1.7),
    ("lamp", 0.12, 5.0),
)
"""What stands along a kerb: kind, radius, height."""


def plaza(rng: np.random.Generator, view: View) -> Plan:
    """A square with planters, benches and a kiosk; in some seeds houses and an alley close its far side."""
    far = view.far_m
    seen = visible_field(view, far)
    gates = [gate_in(seen, 1, share, 4.0) for share in (0.25, 0.65)] + [gate_in(seen, 3, share, 4.0) for share in (0.4, 0.8)]
    gates.append(gate_in(seen, 0, 0.5, min(4.0, 0.6 * float(np.linalg.norm(seen[1] - seen[0])))))
    walkable = seen
    houses: list[Obstacle] = []
    if rng.random() < 0.5:
        wall = view.depth(rng.uniform(0.8, 0.93))
        seen = visible_field(view, wall - OUT_OF_SIGHT_M)
        middle, (left, right) = rng.uniform(-3, 3), view.span(wall)
        lane = [(middle + 2, wall), (middle + 2, wall + 3), (middle + 8, wall + 3), (middle + 8, wall + 6)]
        lane += [(middle - 8, wall + 6), (middle - 8, wall + 3), (middle - 2, wall + 3), (middle - 2, wall)]
        walkable = np.concatenate((seen[:3], view.world(*lane), seen[3:]))
        gates = [gate_in(seen, 1, 0.45, 4.0), gate_in(seen, 3, 0.5, 4.0), gates[-1]]
        gates += [open_gate(*view.world((u, wall + 3.3), (u, wall + 5.7), (middle, wall + 4.5))) for u in (middle - 8, middle + 8)]
        tall = rng.uniform(5, 9)
        houses = [Obstacle(view.world(*box(left - 6, wall, middle - 2, wall + 3)), tall, "building")]
        houses += [Obstacle(view.world(*box(middle + 2, wall, right + 6, wall + 3)), tall * rng.uniform(0.8, 1.2), "building")]
        far = wall
    near, deep = view.near_m, far - view.near_m
    square = strip(view, near + 0.08 * deep, near + 0.58 * deep, 0.08, rng.uniform(0.54, 0.6))
    terrace = strip(view, near + 0.14 * deep, near + 0.6 * deep, 0.66, 0.92)
    placer = Placer(rng, view, walkable, gates, [square, terrace])
    kiosk = (rng.uniform(-0.3, 0.3) * far, near + rng.uniform(0.7, 0.76) * deep)
    centre = view.world(kiosk)[0]
    turn = view.camera.pan_rad
    polygon = rectangle((float(centre[0]), float(centre[1])), 2.4, 2.0, turn)
    queues: list[Queue] = []
    if placer.fits(polygon, 2.5):
        placer.put("kiosk", polygon, 2.5)
        head = view.world((kiosk[0], kiosk[1] - 1.55))[0]
        sideways = turn if kiosk[0] < 0 else turn + math.pi
        queue = line_up((float(head[0]), float(head[1])), sideways, 5)
        placer.clear.append(rectangle(tuple(queue.places_m.mean(axis=0)), 5 * QUEUE_STEP_M, 1.2, sideways))
        queues.append(queue)
    if rng.random() < 0.5:
        placer.scatter("fountain", rng.uniform(2.5, 4.0), 0, 0.5, 1)
    placer.scatter("planter", rng.uniform(1.2, 2.4), rng.uniform(0.8, 1.2), rng.uniform(0.5, 0.8), int(rng.integers(2, 5)))
    placer.scatter("bench", 1.8, 0.5, 0.45, int(rng.integers(2, 5)))
    placer.scatter("lamp", 0.24, 0, 4.5, int(rng.integers(1, 4)))
    placer.scatter("machine", rng.uniform(0.7, 1.1), rng.uniform(0.6, 0.8), rng.uniform(1.6, 2.0), int(rng.integers(0, 4)))
    surfaces = []
    if rng.random() < 0.4:
        surfaces.append(Surface(view.world(*box(-30, near + 0.75 * deep, 30, near + 0.8 * deep)), "marking"))
    return Plan(
        ground=one_of(rng, "paving", "tiles", "concrete"),
        walkable=walkable,
        surfaces=tuple(surfaces),
        obstacles=(*houses, *placer.obstacles),
        gates=tuple(gates),
        spots=find_spots(placer, 10),
        queues=tuple(queues),
        zones={"square": square, "terrace": terrace},
        lines={"passage": across(view, near + 0.3 * deep)},
        mix=Mix(groups=0.35, linger=0.3, queue=0.12),
    )


def corridor(rng: np.random.Generator, view: View) -> Plan:
    """A corridor of a public building with side branches, benches and machines along its walls."""
    half, length, start = rng.uniform(1.9, 3.0), min(view.far_m * rng.uniform(0.85, 1.1), 30.0), 0.3 * view.near_m
    left_v, right_v = rng.uniform(0.38, 0.5) * length, rng.uniform(0.6, 0.75) * length
    arm, bay = 3.5, rng.uniform(2.0, 2.6)
    walkable = np.array(
        [
            (-half, start),
            (half, start),
            (half, right_v),
            (half + arm, right_v),
            (half + arm, right_v + bay),
            (half, right_v + bay),
            (half, length),
            (half + arm, length),
            (half + arm, length + bay),
            (-half, length + bay),
            (-half, left_v + bay),
            (-half - arm, left_v + bay),
            (-half - arm, left_v),
            (-half, left_v),
        ]
    )
    gates = (
        open_gate((-half + 0.3, start), (half - 0.3, start), (0, 10)),
        open_gate((half + arm, right_v + 0.2), (half + arm, right_v + bay - 0.2), (0, right_v + bay / 2)),
        open_gate((-half - arm, left_v + 0.2), (-half - arm, left_v + bay - 0.2), (0, left_v + bay / 2)),
        open_gate((half + arm, length + 0.2), (half + arm, length + bay - 0.2), (0, length + bay / 2)),
    )
    tall, thick = wall_height_m(rng, view), 0.25
    walls = [box(-half - thick, -1, -half, left_v), box(-half - thick, left_v + bay, -half, length + bay)]
    walls += [box(half, -1, half + thick, right_v), box(half, right_v + bay, half + thick, length)]
    walls += [
        box(-half - arm, left_v - thick, -half - thick, left_v),
        box(-half - arm, left_v + bay, -half - thick, left_v + bay + thick),
    ]
    walls += [
        box(half + thick, right_v - thick, half + arm, right_v),
        box(half + thick, right_v + bay, half + arm, right_v + bay + thick),
    ]
    walls += [
        box(half + thick, length - thick, half + arm, length),
        box(-half - thick, length + bay, half + arm, length + bay + thick),
    ]
    deep = length - view.near_m
    hall = box(-half - OVERLAP_M, view.near_m + 0.06 * deep, half + OVERLAP_M, view.near_m + 0.38 * deep)
    junction = box(-half - OVERLAP_M, view.near_m + 0.4 * deep, half + OVERLAP_M, view.near_m + 0.72 * deep)
    placer = Placer(rng, view, walkable, gates, [hall, junction])
    for side, busy in ((-1, [(left_v, left_v + bay)]), (1, [(right_v, right_v + bay)])):
        v = view.near_m + rng.uniform(0.5, 3.0)
        while v < length - 2:
            along = rng.uniform(1.0, 2.0)
            if half > 2.2 and all(v > b + 0.8 or v + along < a - 0.8 for a, b in busy):
                kind, depth_m, tall_m = WALL_FURNITURE[int(rng.integers(len(WALL_FURNITURE)))]
                polygon = box(side * (half - depth_m), v, side * half, v + along)
                if not any(hides(view, polygon, tall_m, zone) for zone in (hall, junction)):
                    placer.put(kind, polygon, tall_m)
            v += along + rng.uniform(2.5, 6.0)
    line_v = view.near_m + rng.uniform(0.22, 0.34) * deep
    return Plan(
        ground=one_of(rng, "tiles", "terrazzo", "carpet"),
        walkable=walkable,
        surfaces=(),
        obstacles=(*(Obstacle(wall, tall, "wall") for wall in walls), *placer.obstacles),
        gates=gates,
        spots=find_spots(placer, 4),
        queues=(),
        zones={"hall": hall, "junction": junction},
        lines={"middle": ((-half + 0.05, line_v), (half - 0.05, line_v))},
        mix=Mix(groups=0.3, linger=0.15, queue=0.0),
    )


def shop(rng: np.random.Generator, view: View) -> Plan:
    """A shop: shelves in rows and along a wall, a counter with a queue, two doors to the street, one to the back."""
    half, length, start = rng.uniform(5.0, 6.5), view.far_m * rng.uniform(0.95, 1.1), 0.35 * view.near_m
    d0 = start + rng.uniform(0.14, 0.2) * (length - start)
    d1 = d0 + rng.uniform(2.2, 2.8)
    back, porch = rng.uniform(-0.5, 0.5) * half, d0 - 3
    outside = [(half, d0), (half + 0.3, d0), (half + 0.3, porch), (half + 1.8, porch), (half + 1.8, d1), (half, d1)]
    walkable = np.array(
        [
            (half, start),
            *outside,
            (half, length),
            (back + 1, length),
            (back + 1, length + 2.5),
            (back - 1, length + 2.5),
            (back - 1, length),
            (-half, length),
            *((-x, v) for x, v in reversed(outside)),
            (-half, start),
        ]
    )
    gates = (
        open_gate((half + 0.4, porch), (half + 1.7, porch), (half + 1, d0)),
        open_gate((-half - 0.4, porch), (-half - 1.7, porch), (-half - 1, d0)),
        open_gate((back - 0.9, length + 2.5), (back + 0.9, length + 2.5), (back, length)),
    )
    tall, thick = wall_height_m(rng, view), 0.25
    walls = [box(back + edge, length, edge * (half + thick), length + thick) for edge in (-1, 1)]
    for side in (-1, 1):
        walls += [box(side * half, a, side * (half + thick), b) for a, b in ((-1, d0), (d1, length))]
        walls.append(box(side * (half + 1.8), porch, side * (half + 2.05), d1 + 3))
    aisles = d1 + 0.8  # where the rows of shelves begin
    lobby = box(-half, max(view.near_m + 0.2, d0 - 0.8), half, aisles + 0.3)
    hand = float(rng.choice([-1, 1]))  # the side on which the counter is
    till = box(hand * (half - 1.3), aisles + 0.5, hand * (half - 6.2), aisles + 2.9)
    queue = line_up((hand * (half - 1.9), aisles + 1.7), math.pi if hand > 0 else 0.0, 5)  # side by side for the camera
    placer = Placer(rng, view, walkable, gates, [lobby, till])
    placer.put("counter", box(hand * (half - 1.2), aisles + 0.8, hand * (half - 0.6), aisles + 2.8), 1.05)
    row0, row1 = aisles + 4.4, length - 2.0
    for v in np.arange(row0, row1, rng.uniform(1.5, 6.0)):
        fridge = box(hand * half, v, hand * (half - rng.uniform(0.4, 0.6)), v + rng.uniform(0.6, 1.1))
        placer.put("machine", fridge, rng.uniform(1.6, 2.0))
    aisle, deep, shelf_m = rng.uniform(1.9, 2.4), rng.uniform(0.7, 1.0), rng.uniform(1.3, 1.6)
    x = aisle + 0.45 - half
    while x + deep < half - aisle - 0.25:
        cut = row0 + rng.uniform(0.45, 0.6) * (row1 - row0)
        for a, b in ((row0, cut - 0.9), (cut + 0.9, row1)):
            polygon = box(x, a, x + deep, b)
            if b - a > 1.0 and gap(polygon, till) > 0.6 and gap(polygon, placer.obstacles[0].polygon_m) > PASSAGE_M:
                placer.put("shelf", polygon, shelf_m)
        x += deep + aisle
    placer.put("shelf", box(-hand * half, row0, -hand * (half - 0.45), row1), 1.9)
    placer.scatter("planter", 0.6, 0, 0.9, 1)
    return Plan(
        ground=one_of(rng, "tiles", "wood", "carpet", "terrazzo"),
        walkable=walkable,
        surfaces=(),
        obstacles=(*(Obstacle(wall, tall, "wall") for wall in walls), *placer.obstacles),
        gates=gates,
        spots=find_spots(placer, 14),
        queues=(queue,),
        zones={"lobby": lobby, "till": till},
        lines={"aisles": ((0.3 - half, aisles + 0.1), (half - 0.3, aisles + 0.1))},
        mix=Mix(groups=0.2, linger=0.65, queue=0.35),
    )


def street(rng: np.random.Generator, view: View) -> Plan:
    """A pavement beside a road with parked cars, and a crossing."""
    far = view.far_m
    left, right = -rng.uniform(2.5, 3.5), rng.uniform(2.5, 4.0)
    road, over = left - rng.uniform(6.0, 8.0), rng.uniform(3.0, 4.5)
    start, end = 0.5 * view.near_m, far + 2.5
    deep = far - view.near_m
    cross = view.near_m + rng.uniform(0.24, 0.36) * deep
    cross_m = rng.uniform(3.5, 4.5)
    walkable = np.array(
        [
            (left, start),
            (right, start),
            (right, end),
            (left, end),
            (left, cross + cross_m),
            (road, cross + cross_m),
            (road, end),
            (road - over, end),
            (road - over, start),
            (road, start),
            (road, cross),
            (left, cross),
        ]
    )
    shop_v = view.near_m + rng.uniform(0.55, 0.7) * deep
    gates = (
        open_gate((left + 0.4, start), (right - 0.4, start), (0, far)),
        open_gate((left + 0.4, end), (right - 0.4, end), (0, 0)),
        open_gate((road - 0.4, start), (road - over + 0.4, start), (road - 1, far)),
        open_gate((road - 0.4, end), (road - over + 0.4, end), (road - 1, 0)),
        open_gate((right, shop_v), (right, shop_v + 1.8), (0, shop_v)),
    )
    pavement = box(left, view.near_m + 0.06 * deep, right + OVERLAP_M, view.near_m + 0.42 * deep)
    crossing = box(left - 3.2, cross, left + 0.6, cross + cross_m)
    placer = Placer(rng, view, walkable, gates, [pavement, crossing])
    houses = [Obstacle(box(right, -2, right + 4, shop_v), rng.uniform(6, 10), "building")]
    houses.append(Obstacle(box(right, shop_v + 1.8, right + 4, end + 6), rng.uniform(6, 10), "building"))
    houses.append(Obstacle(box(road - over - 4, -2, road - over, end + 6), rng.uniform(6, 10), "building"))
    v = view.near_m - 4
    while v < far:
        car = box(left - 2.1, v, left - 0.3, v + rng.uniform(3.9, 4.7))
        v += 5.6 + (rng.uniform(0, 5) if rng.random() < 0.4 else 0)
        if gap(car, crossing) > 0.8 and not hides(view, car, 1.5, crossing) and not hides(view, car, 1.5, pavement):
            placer.put("car", car, rng.uniform(1.4, 1.65))
    v = start + 1.0
    while v < end - 2:
        if not cross - 0.5 < v < cross + cross_m + 0.5:
            kind, radius_m, tall_m = KERB_FURNITURE[int(rng.integers(len(KERB_FURNITURE)))]
            post = disc((left + 0.35, v), radius_m)
            if not any(hides(view, post, tall_m, zone) for zone in (pavement, crossing)):
                placer.put(kind, post, tall_m)
        v += rng.uniform(3, 8)
    if right - left > 5.6:
        placer.scatter("bench", 0.5, 1.6, 0.45, 1, turned=False)
        placer.scatter("planter", 0.8, 1.4, 0.6, 1, turned=False)
    stripes = [
        Surface(box(x, cross + 0.2, x + 0.5, cross + cross_m - 0.2), "marking") for x in np.arange(road + 0.4, left - 0.6, 1.0)
    ]
    line_v = view.near_m + rng.uniform(0.2, 0.3) * deep
    return Plan(
        ground="asphalt",
        walkable=walkable,
        surfaces=(
            Surface(box(left, -5, right, end + 30), "paving"),
            Surface(box(road - over, -5, road, end + 30), "paving"),
            *stripes,
        ),
        obstacles=(*houses, *placer.obstacles),
        gates=gates,
        spots=find_spots(placer, 6),
        queues=(),
        zones={"pavement": pavement, "crossing": crossing},
        lines={
            "kerb": ((left - 0.3, cross + cross_m - 0.1), (left - 0.3, cross + 0.1)),
            "walk": ((left + 0.3, line_v), (right - 0.1, line_v)),
        },
        mix=Mix(groups=0.3, linger=0.2, queue=0.0),
    )


def station(rng: np.random.Generator, view: View) -> Plan:
    """A station's hall: columns, ticket machines with queues, benches, a row of barriers at the far side."""
    far, near = view.far_m, view.near_m
    half, start, end = rng.uniform(6.5, 7.5), 0.35 * near, far + 2.0
    walkable = box(-half, start, half, end)
    row = near + rng.uniform(0.84, 0.9) * (far - near)
    gates = (
        open_gate((-half, start + 2), (-half, start + 6), (0, start)),
        open_gate((half, start + 3), (half, start + 7), (0, start)),
        open_gate((-3, start), (3, start), (0, end)),
        open_gate((-half + 1.5, end), (-half + 6.0, end), (0, 0)),
        open_gate((half - 6.0, end), (half - 1.5, end), (0, 0)),
    )
    deep = far - near
    concourse = strip(view, near + 0.06 * deep, near + 0.46 * deep, 0.08, 0.92)
    ticketing = box(-half - OVERLAP_M, near + 0.5 * deep, -half + 5.4, near + 0.76 * deep)
    placer = Placer(rng, view, walkable, gates, [concourse, ticketing])
    x = -half + 1.4
    while x < half - 1.2:
        placer.put("barrier", box(x, row - 0.7, x + 0.3, row + 0.7), 1.05)
        x += rng.uniform(1.6, 1.9)
    machine_v = near + 0.63 * deep
    queues = []
    for v in (machine_v - 1.2, machine_v + 1.2):
        placer.put("machine", box(-half, v - 0.5, -half + 0.7, v + 0.5), 1.9)
        queues.append(line_up((-half + 1.4, v), 0.0, 4))
    for side in (-1, 1):
        for v in np.arange(near + 0.1 * deep, row - 2.5, rng.uniform(4.5, 6.0)):
            column = disc((side * half * 0.62, float(v)), rng.uniform(0.3, 0.45))
            if placer.fits(column, 4.5):
                placer.put("pillar", column, 4.5)
    placer.scatter("kiosk", 3.0, 2.0, 2.4, 1, turned=False)
    placer.scatter("bench", 2.0, 0.6, 0.45, int(rng.integers(2, 5)), turned=False)
    tall = wall_height_m(rng, view)
    walls = [box(-half - 0.3, -1, -half, start + 2), box(-half - 0.3, start + 6, -half, end + 0.3)]
    walls += [box(half, -1, half + 0.3, start + 3), box(half, start + 7, half + 0.3, end + 0.3)]
    walls += [box(-half + 6.0, end, half - 6.0, end + 0.3)]
    return Plan(
        ground=one_of(rng, "terrazzo", "tiles"),
        walkable=walkable,
        surfaces=(Surface(box(-half, row - 1.6, half, row - 1.2), "marking"),),
        obstacles=(*(Obstacle(wall, tall, "wall") for wall in walls), *placer.obstacles),
        gates=gates,
        spots=find_spots(placer, 10),
        queues=tuple(queues),
        zones={"concourse": concourse, "ticketing": ticketing},
        lines={"passage": across(view, near + 0.3 * deep)},
        mix=Mix(groups=0.25, linger=0.25, queue=0.2),
    )


LAYOUTS: dict[str, tuple[Site, Layout]] = {
    "plaza": (Site((7.0, 11.0), (50, 68), (16, 22), (-4, 4), (-3, 3), True), plaza),
    "corridor": (Site((3.8, 4.6), (65, 85), (9, 13), (-1.0, 1.0), (-0.3, 0.3), False), corridor),
    "shop": (Site((4.5, 6.0), (75, 92), (14, 17), (-2.5, 2.5), (-0.5, 0.5), False), shop),
    "street": (Site((7.0, 11.0), (50, 68), (17, 23), (-0.5, 3.0), (-3.5, -1.0), True), street),
    "station": (Site((6.5, 9.0), (55, 75), (17, 23), (-2, 2), (-1, 1), False), station),
}
"""Of each scene, the cameras that it is seen from and how it is laid out."""
