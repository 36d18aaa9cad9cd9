"""A machine of fixed speed under cameras, simulated: what the policies of load shedding make of it. No threads, no real time."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from stream.allowance import Allowance
from stream.config import SourceConfig
from stream.effort import Effort

LATENCY_S = 0.5
REST_S = 0.2  # detector and all behind it; what a frame really takes lies between a quarter of that and all of it
PACKET_FPS, ANALYSED_EACH = 25, 5
STEP_S = 0.005  # of simulated time


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU seconds of a key frame, of another packet, and of analysing a frame."""

    key_s: float = 0.012
    packet_s: float = 0.0045
    frame_s: float = 0.006

    def camera(self, gop: int) -> float:
        """Of a second of a camera of which everything is analysed."""
        keys = PACKET_FPS / gop
        needed = keys * (gop - ANALYSED_EACH + 1)
        return keys * self.key_s + (needed - keys) * self.packet_s + PACKET_FPS / ANALYSED_EACH * self.frame_s


@dataclass(slots=True)
class Camera:
    """A source: its packets that wait, and the frame it works on."""

    effort: Effort
    began_s: float
    gop: int
    costs: Costs
    number: int = 0
    packets: deque[tuple[float, int]] = field(default_factory=deque)
    held: int = 0
    skipped_key: bool = False
    due_s: float = 0.0
    left_s: float = 0.0
    analysed: list[tuple[float, float]] = field(default_factory=list)

    def arrive(self, now_s: float) -> None:
        """Take in the packets that the camera has sent."""
        while (due_s := self.began_s + self.number / PACKET_FPS) <= now_s:
            self.packets.append((due_s, self.number))
            self.number += 1

    def busy(self, now_s: float) -> bool:
        """True while there is a frame to work on; begins with the next one."""
        while not self.left_s and self.packets:
            due_s, number = self.packets.popleft()
            key = number % self.gop == 0
            if key:
                self.effort.key(number / PACKET_FPS)
                self.held, self.skipped_key = 0, not self.effort.key_granted
            self.held += 1
            wanted = number % ANALYSED_EACH == 0 and (self.effort.level == "fast" or (key and not self.skipped_key))
            if not wanted:
                continue
            if now_s - due_s + REST_S > LATENCY_S:
                self.effort.frame(None, now_s)
                continue
            decode_s = (self.costs.key_s if key else 0) + self.costs.packet_s * (self.held - key)
            self.due_s, self.left_s, self.held = due_s, decode_s + self.costs.frame_s, 0
        return self.left_s > 0

    def work(self, cpu_s: float, now_s: float, rng: random.Random) -> None:
        """Use the CPU for so long."""
        self.left_s -= cpu_s
        if self.left_s > 1e-9:
            return
        self.left_s, age_s = 0.0, now_s - self.due_s
        if age_s + REST_S > LATENCY_S:
            self.effort.frame(None, now_s)
            return
        rest_s = rng.uniform(REST_S / 4, REST_S)
        self.effort.frame((age_s + rest_s) / LATENCY_S, now_s)
        self.analysed.append((now_s, age_s + rest_s))


class Machine:
    """``cores`` that are shared evenly by the cameras that have something to do.

    Attributes:
        cameras: all of them.
        allowance: of all of them.
    """

    def __init__(self, cameras: int, cores: float, costs: Costs, *, gop: int = 25, seed: int = 0):
        self._rng, self._cores = random.Random(seed), cores
        self.allowance = Allowance()
        self.now_s = 0.0
        self.cameras = [
            Camera(
                Effort(SourceConfig(id=f"cam{i:02d}", uri=f"rtsp://10.0.0.{i}/", fps=5), allowance=self.allowance),
                self._rng.random(),
                gop,
                costs,
            )
            for i in range(cameras)
        ]

    def run(self, until_s: float) -> None:
        """Let time pass."""
        while self.now_s < until_s:
            self.now_s += STEP_S
            for camera in self.cameras:
                camera.arrive(self.now_s)
            left_s = self._cores * STEP_S
            while left_s > 1e-9 and (busy := [camera for camera in self.cameras if camera.busy(self.now_s)]):
                share_s = min(STEP_S, left_s / len(busy), *(camera.left_s for camera in busy))
                for camera in busy:
                    camera.work(share_s, self.now_s, self._rng)
                left_s -= share_s * len(busy) if share_s < STEP_S else left_s

    def leave(self, cameras: Sequence[Camera]) -> None:
        """These end."""
        part = len(cameras) / len(self.cameras)
        self.cameras = [camera for camera in self.cameras if camera not in cameras]
        self.allowance.relieved(part, self.now_s)
