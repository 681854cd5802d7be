"""Where things stand: a street with houses, and people, vehicles and obstacles in places that make sense."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from emma_core.samples import backdrop, people, street, vehicles
from emma_core.samples.stage import Spot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emma_core.samples.stage import Stage
    from emma_core.samples.street import Item

    Place = tuple[float, float]

_ATTEMPTS = 24
_SIDES = (-1, 1)


def arrange(stage: Stage, wanted: Sequence[str]) -> None:
    """Paint a scene: far scenery, ground, then everything that stands on it, the farthest first.

    Args:
        stage: an empty one.
        wanted: kinds to look for a place for, in order of importance; more of each may come.
    """
    backdrop.skyline(stage)
    street.ground(stage)
    street.markings(stage)
    for side in _SIDES:
        if stage.chance(0.75):
            backdrop.houses(stage, side)
    items = street.kerbs(stage) if "curve" in wanted or stage.chance(0.7) else []
    for kind in wanted:
        if kind in _PLACES:
            items += _PLACES[kind](stage)
    items += _furniture(stage) + _traffic(stage, wanted)
    for _, draw in sorted(items, key=lambda item: -item[0]):
        draw()


def _furniture(stage: Stage) -> list[Item]:
    """Choose lamps, trees, hedges and signs along both pavements."""
    items: list[Item] = []
    for side in _SIDES:
        edge = _kerb(stage, side)
        row = edge + side * (stage.road.pavement + 0.8)
        items += [(z, partial(backdrop.tree, stage, row, z)) for z in _along(stage, 6, 65, 6, 14)]
        if stage.chance(0.5):
            near = stage.uniform(4, 12)
            far = near + stage.uniform(5, 16)
            items.append((far, partial(backdrop.hedge, stage, row, near, far)))
        if stage.chance(stage.climate.lamps):
            lamps = _along(stage, 9, 80, 16, 22)
            items += [(z, partial(street.street_lamp, stage, edge + side * 0.5, z)) for z in lamps]
        if stage.chance(0.5):
            z = stage.uniform(7, 16)
            items.append((z, partial(street.sign, stage, edge + side * 0.7, z)))
    return items


def _traffic(stage: Stage, wanted: Sequence[str]) -> list[Item]:
    """Choose more people and cars, so that scenes differ in how crowded they are."""
    items: list[Item] = []
    for _ in range(int(stage.rng.integers(1, 6))):
        items += _pedestrian(stage)
    for _ in range(int(stage.rng.integers(0, 3))):
        items += _car(stage)
    if "lamp" in wanted:
        items += _at_the_kerb(stage, street.traffic_light) if stage.chance(0.6) else []
        for _ in range(int(stage.rng.integers(1, 4))):
            items += _at_the_kerb(stage, street.panel)
    return items


def _along(stage: Stage, first: float, last: float, low: float, high: float) -> list[float]:
    """Choose distances along the street with random gaps."""
    places, z = [], first + stage.uniform(0, high)
    while z < last:
        places.append(z)
        z += stage.uniform(low, high)
    return places


def _free(stage: Stage, draw: Callable[[], Place], radius: float) -> Place | None:
    """Look for a place that the camera sees and where nothing stands yet."""
    for _ in range(_ATTEMPTS):
        x, z = draw()
        if _in_view(stage, x, z) and stage.claim(x, z, radius):
            return x, z
    return None


def _in_view(stage: Stage, x: float, z: float) -> bool:
    camera = stage.canvas.camera
    column = camera.centre[1] + camera.focal * x / z
    return 0.04 < column / camera.size[1] < 0.96


def _side(stage: Stage) -> int:
    return -1 if stage.chance(0.5) else 1


def _kerb(stage: Stage, side: int) -> float:
    return stage.road.left if side < 0 else stage.road.right


def _depth(stage: Stage, near: float, far: float) -> float:
    """Choose a distance evenly on a logarithmic scale, so that all sizes in the image are about as common."""
    return float(near * (far / near) ** (stage.reach * stage.uniform(0, 1)))


def _on_lane(stage: Stage, near: float, far: float) -> Place:
    x = _kerb(stage, _side(stage)) * 0.54
    return x + stage.uniform(-0.3, 0.3), _depth(stage, near, far)


def _heading(stage: Stage, x: float) -> float:
    """Cars on the right drive away, those on the left come towards us; now and then one crosses."""
    if stage.chance(0.15):
        return math.copysign(stage.uniform(1.1, 1.5), -x)
    return stage.uniform(-0.12, 0.12) + (math.pi if x < 0 else 0.0)


def _car(stage: Stage) -> list[Item]:
    """Put a car on a lane, or park one at the kerb."""
    running = stage.chance(stage.running)

    def parked() -> Place:
        side = _side(stage)
        return _kerb(stage, side) - side * 1.1, _depth(stage, 7, 30)

    place = _free(stage, partial(_on_lane, stage, 9, 38) if running else parked, 2.4)
    if place is None:
        return []
    yaw = _heading(stage, place[0]) if running else math.pi * (place[0] < 0)
    return [(place[1], partial(vehicles.car, stage, Spot(*place, yaw), running=running))]


def _large(draw: Callable[[Stage, Spot], int], radius: float, stage: Stage) -> list[Item]:
    """Put a bus or a truck on a lane."""
    place = _free(stage, partial(_on_lane, stage, 14, 34), radius)
    if place is None:
        return []
    yaw = stage.uniform(-0.1, 0.1) + math.pi * (place[0] < 0)
    return [(place[1], partial(draw, stage, Spot(*place, yaw)))]


def _pedestrian(stage: Stage) -> list[Item]:
    """Put a person on a pavement, or crossing the road, at times with company."""
    road = stage.road

    def somewhere() -> Place:
        z = _depth(stage, 5.0, 30)
        if stage.chance(0.35):
            return stage.uniform(road.left + 0.5, road.right - 0.5), max(z, 7.0)
        side = _side(stage)
        return _kerb(stage, side) + side * stage.uniform(0.4, road.pavement - 0.3), z

    place = _free(stage, somewhere, 0.45)
    if place is None:
        return []
    spots = [Spot(*place, stage.uniform(-1.6, 1.6))]
    if stage.chance(0.35) and stage.claim(place[0] + 0.65, place[1] + 0.2, 0.2):
        spots.append(Spot(place[0] + 0.65, place[1] + 0.2, stage.uniform(-1.6, 1.6)))
    return [(spot.z, partial(people.person, stage, spot)) for spot in spots]


def _cyclist(stage: Stage) -> list[Item]:
    """Put a bicycle near a kerb, parked or ridden."""

    def somewhere() -> Place:
        side = _side(stage)
        return _kerb(stage, side) + side * stage.uniform(-0.9, 1.6), _depth(stage, 5.5, 14)

    place = _free(stage, somewhere, 0.7)
    if place is None:
        return []
    spot = Spot(*place, stage.uniform(-0.8, 0.8))
    return [(spot.z, partial(people.bicycle, stage, spot, rider=stage.chance(0.5)))]


def _motorcyclist(stage: Stage) -> list[Item]:
    place = _free(stage, partial(_on_lane, stage, 7, 18), 1.0)
    if place is None:
        return []
    return [(place[1], partial(people.motorcycle, stage, Spot(*place, math.pi * (place[0] < 0))))]


def _at_the_kerb(stage: Stage, draw: Callable[[Stage, float, float], None]) -> list[Item]:
    """Put a traffic light, or what looks like one, beside the road."""

    def somewhere() -> Place:
        side = _side(stage)
        return _kerb(stage, side) + side * stage.uniform(0.3, 0.9), _depth(stage, 10, 26)

    place = _free(stage, somewhere, 0.3)
    return [(place[1], partial(draw, stage, *place))] if place else []


def _cones(stage: Stage) -> list[Item]:
    """Put a line of cones on the road."""
    z = _depth(stage, 4.8, 9)
    x = stage.uniform(max(stage.road.left, -0.4 * z), min(stage.road.right, 0.4 * z) - 1.0)
    line = [(x + 0.35 * step, z + 1.4 * step) for step in range(int(stage.rng.integers(2, 5)))]
    return [(place[1], partial(street.cone, stage, *place)) for place in line if stage.claim(*place, 0.25)]


def _stops(stage: Stage) -> list[Item]:
    """Put wheel stops one behind the other at an edge of the road."""
    side = _side(stage)
    x = _kerb(stage, side) - side * 1.15
    z = max(4.5, abs(x) / 0.40) + stage.uniform(0, 2.5)
    line = [(x, z + 2.7 * step) for step in range(int(stage.rng.integers(1, 4)))]
    return [(place[1], partial(street.car_stop, stage, *place)) for place in line if stage.claim(*place, 0.6)]


def _rails(stage: Stage) -> list[Item]:
    side, near = _side(stage), stage.uniform(4, 8)
    return street.guardrail(stage, _kerb(stage, side) + side * 0.35, near, near + stage.uniform(8, 20))


def _hump(stage: Stage) -> list[Item]:
    z = stage.uniform(5, 10)
    return [(z + 1.0, partial(street.bump, stage, z))]


_PLACES: dict[str, Callable[[Stage], list[Item]]] = {
    "person": _pedestrian,
    "car": _car,
    "bus": partial(_large, vehicles.bus, 5.0),
    "truck": partial(_large, vehicles.truck, 3.4),
    "bike": _cyclist,
    "motorcycle": _motorcyclist,
    "lamp": partial(_at_the_kerb, draw=street.traffic_light),
    "color cone": _cones,
    "car stop": _stops,
    "guardrail": _rails,
    "bump": _hump,
}
