"""Faces of invented people, painted from a few numbers each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .canvas import Colour, Picture, Plane, coordinates, ellipse, inside, linear, paint, rectangle

SKIN = ((0.97, 0.83, 0.74), (0.90, 0.72, 0.58), (0.78, 0.57, 0.42), (0.56, 0.37, 0.25),
        (0.36, 0.23, 0.16))  # fmt: skip
HAIR = ((0.10, 0.08, 0.07), (0.25, 0.16, 0.10), (0.47, 0.30, 0.16), (0.78, 0.62, 0.36),
        (0.62, 0.62, 0.62))  # fmt: skip
IRIS = ((0.20, 0.11, 0.06), (0.35, 0.22, 0.10), (0.25, 0.38, 0.50), (0.28, 0.40, 0.26))


@dataclass(frozen=True)
class Subject:
    """A person. Lengths are in halves of the head's height."""

    skin: Colour
    hair: Colour
    iris: Colour
    cloth: Colour
    width: float
    jaw: float
    hairline: float
    parting: float
    """How much lower the hairline is on the right than on the left."""
    hair_length: float
    """Down to where the hair behind the head reaches; below 0, it is short."""
    eyes_apart: float
    eye_size: float
    brow: float
    nose: float
    mouth: float
    lips: float
    beard: float
    """From none, 0, to thick, 1."""
    glasses: bool
    shine: float
    """Strength of the highlight on the skin."""
    marks: tuple[float, ...]
    """Phases of the skin's unevenness."""


@dataclass(frozen=True)
class Pose:
    """How a face is held in one frame; x, y and scale in halves of the frame's height."""

    x: float
    y: float
    scale: float
    roll: float
    """Radians."""
    yaw: float
    """How far the nose is off the middle of the head, in halves of its height."""
    eyes: float
    """From shut, 0, to open, 1."""
    smile: float
    mouth: float
    """How far it is open."""


@dataclass(frozen=True)
class Light:
    """A lamp far away, and light from all sides."""

    towards: tuple[float, float, float]
    """Unit vector to the lamp: to the right, downwards, to the camera."""
    ambient: float
    """Share of the light that comes from all sides."""


def draw_subject(rng: np.random.Generator) -> Subject:
    """Invent a person."""
    skin = _between(SKIN, rng.uniform(0, len(SKIN) - 1))
    cloth = rng.uniform(0.08, 0.85, 3)
    return Subject(
        skin=linear(skin),
        hair=linear(HAIR[rng.choice(len(HAIR), p=(0.35, 0.3, 0.15, 0.12, 0.08))]),
        iris=linear(IRIS[rng.integers(len(IRIS))]),
        cloth=linear((float(cloth[0]), float(cloth[1]), float(cloth[2]))),
        width=rng.uniform(0.68, 0.8),
        jaw=rng.uniform(0.12, 0.34),
        hairline=rng.uniform(-0.8, -0.58),
        parting=rng.normal(0, 0.2),
        hair_length=rng.choice([-1.0, rng.uniform(0.2, 1.2)]),
        eyes_apart=rng.uniform(0.29, 0.35),
        eye_size=rng.uniform(0.145, 0.18),
        brow=rng.uniform(0.025, 0.05),
        nose=rng.uniform(0.075, 0.12),
        mouth=rng.uniform(0.21, 0.29),
        lips=rng.uniform(0.035, 0.07),
        beard=max(0.0, rng.uniform(-1.5, 1.0)),
        glasses=bool(rng.random() < 0.25),
        shine=rng.uniform(0.08, 0.35),
        marks=tuple(rng.uniform(0, 2 * math.pi, 4).tolist()),
    )


def draw_poses(frames: int, scale: float, rng: np.random.Generator) -> list[Pose]:
    """A short video: the head sways, the mouth moves, and the eyes blink in one frame."""
    at = rng.normal(0, (0.05, 0.04, 0.05, 0.07, 0.25))
    pace = (0.012, 0.012, 0.012, 0.025, 0.12)
    blink = rng.integers(frames) if frames > 1 else -1
    talks = rng.uniform(0, 0.06)
    poses = []
    for frame in range(frames):
        x, y, roll, yaw, smile = at
        poses.append(
            Pose(x, 0.08 + y, scale, roll, yaw, rng.uniform(0.0, 0.15) if frame == blink
                 else rng.uniform(0.8, 1.05), smile, talks * rng.random())
        )  # fmt: skip
        at = at + rng.normal(0, pace)
    return poses


def draw_light(rng: np.random.Generator) -> Light:
    """A lamp at the side or above, the room more or less bright."""
    across, down = rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.0)
    length = math.sqrt(across**2 + down**2 + 0.5)
    towards = (across / length, down / length, math.sqrt(0.5) / length)
    return Light(towards, rng.uniform(0.25, 0.55))


def paint_person(scene: Picture, subject: Subject, pose: Pose, light: Light) -> None:
    """Paint a person's head and shoulders before a scene, and their shadow on it, in place."""
    x, y = coordinates(scene.shape[-1])
    _paint_shadow(scene, x, y, pose, light)
    x, y = (x - np.float32(pose.x)) / pose.scale, (y - np.float32(pose.y)) / pose.scale
    cos, sin = math.cos(pose.roll), math.sin(pose.roll)
    person = _Person(subject, pose, cos * x + sin * y, cos * y - sin * x, scene.shape[-1])
    person.paint_body()
    person.paint_skin()
    person.paint_face()
    person.paint_hair()
    shade, highlight = person.lit(light)
    scene *= 1 - person.cover
    scene += person.colours * shade + highlight


def _between(colours: tuple[Colour, ...], place: float) -> Colour:
    first = min(int(place), len(colours) - 2)
    share = place - first
    red, green, blue = (
        (1 - share) * a + share * b for a, b in zip(colours[first], colours[first + 1], strict=True)
    )
    return red, green, blue


def _times(colour: Colour, *factors: float) -> Colour:
    """The colour, all of it or each part of it times a factor."""
    red, green, blue = np.array(colour) * np.array(factors)
    return float(red), float(green), float(blue)


def _paint_shadow(scene: Picture, x: Plane, y: Plane, pose: Pose, light: Light) -> None:
    across, down, _ = light.towards
    centre = (pose.x - 0.35 * across, pose.y - 0.35 * down)
    shadow = inside(ellipse(x, y, centre, (0.75 * pose.scale, pose.scale)), 0.35)
    scene *= 1 - (0.5 * (1 - light.ambient)) * shadow


class _Person:
    """Layers of one person, painted one over the other.

    The coordinates u and v are the head's own: v is -1 at the crown and 1 at the chin.
    """

    def __init__(self, subject: Subject, pose: Pose, u: Plane, v: Plane, pixels: int) -> None:
        self.subject, self.pose = subject, pose
        self.u, self.v = u, v
        self.edge = 3 / (pixels * pose.scale)
        self.colours = np.zeros((3, pixels, pixels), np.float32)
        self.cover = np.zeros((pixels, pixels), np.float32)
        self.half = subject.width * (1 - subject.jaw * np.clip(v, 0, 1) ** 2)
        radius = (u / self.half) ** 2 + v * v
        self.height = np.sqrt(np.clip(1 - radius, 0, 1))
        self.head = inside((np.sqrt(radius) - 1) * np.float32(subject.width), self.edge)
        self.f = u - np.float32(pose.yaw) * self.height
        """As u, but from the middle of the face, which turns with the head."""

    def layer(self, colour: Colour | Picture, mask: Plane) -> None:
        paint(self.colours, colour, mask)
        self.cover += mask * (1 - self.cover)

    def spot(
        self, centre: tuple[float, float], radii: tuple[float, float], edge: float = 0.0
    ) -> Plane:
        """An ellipse on the face, its outline as soft as the pixels or softer."""
        return inside(ellipse(self.f, self.v, centre, radii), max(edge, self.edge))

    def paint_body(self) -> None:
        who, u, v = self.subject, self.u, self.v
        if who.hair_length > 0:
            below = who.hair_length
            long = ellipse(u, v, (0, (below - 1.1) / 2), (who.width * 1.25, (below + 1.1) / 2))
            self.layer(_times(who.hair, 0.7), inside(long, self.edge))
        self.layer(who.cloth, inside(ellipse(u, v, (0, 2.0), (1.35, 0.85)), self.edge))
        neck = rectangle(u, v - 1.0, (who.width * 0.55, 0.45), 0.1)
        self.layer(_times(who.skin, 0.6), inside(neck, self.edge))
        for side in (-1, 1):
            ear = inside(ellipse(u, v, (side * who.width, 0.0), (0.1, 0.2)), self.edge)
            self.layer(_times(who.skin, 0.85, 0.78, 0.75), ear)

    def paint_skin(self) -> None:
        who, f, v = self.subject, self.f, self.v
        a, b, c, d = who.marks
        uneven = np.sin(9 * f + 4 * v + np.float32(a)) * np.sin(
            7 * v - 3 * f + np.float32(b)
        ) + 0.7 * np.sin(31 * f + 17 * v + np.float32(c)) * np.sin(29 * v - 13 * f + np.float32(d))
        skin = np.array(who.skin, np.float32)[:, None, None] * (1 + 0.04 * uneven)
        self.layer(skin, self.head)
        for side in (-1, 1):
            cheek = self.spot((side * 0.4, 0.25), (0.2, 0.17), 0.25)
            paint(self.colours, _times(who.skin, 1.05, 0.8, 0.8), 0.5 * cheek)
        if who.beard > 0.05:
            chin = inside(0.28 + 0.55 * (self.half - np.abs(f)) - v, 0.12) * self.head
            paint(self.colours, _times(who.hair, 0.9), 0.75 * who.beard * chin)

    def paint_face(self) -> None:
        for side in (-1.0, 1.0):
            self._paint_eye(side)
        self._paint_nose()
        self._paint_mouth()
        if self.subject.glasses:
            self._paint_glasses()

    def paint_hair(self) -> None:
        who = self.subject
        cap = inside(ellipse(self.u, self.v, (0, -0.08), (who.width * 1.08, 1.07)), self.edge)
        side = self.f / np.float32(who.width)
        line = who.hairline + who.parting * side + 0.8 * side**4
        fringe = 0.035 * np.sin(23 * self.f + np.float32(who.marks[1]))
        front = inside(self.v - line - fringe, max(self.edge, 0.06)) * inside(self.v - 0.15, 0.3)
        bow = np.sqrt(self.f**2 + (self.v + 0.2) ** 2)
        strands = 1 + 0.13 * np.sin(30 * bow + 9 * self.f + np.float32(who.marks[0]))
        self.layer(np.array(who.hair, np.float32)[:, None, None] * strands, cap * front)

    def _paint_eye(self, side: float) -> None:
        who, pose = self.subject, self.pose
        at, size, level = side * who.eyes_apart, who.eye_size, -0.1
        shut = size * 0.55 * max(pose.eyes, 0.1)
        socket = self.spot((at, level - 0.03), (size * 1.5, size * 1.15), 0.12)
        paint(self.colours, _times(who.skin, 0.62, 0.55, 0.52), 0.4 * socket)
        lid = self.spot((at, level - 0.025), (size * 1.08, shut + 0.03))
        paint(self.colours, _times(who.skin, 0.22), lid)
        white = self.spot((at, level), (size, shut))
        paint(self.colours, (0.5, 0.48, 0.46), white)
        if pose.eyes > 0.3:
            iris = self.spot((at, level), (size * 0.5, size * 0.5)) * white
            paint(self.colours, who.iris, iris)
            paint(self.colours, (0.01, 0.01, 0.01), self.spot((at, level), (0.035, 0.035)) * white)
            paint(
                self.colours, (1.0, 1.0, 1.0), self.spot((at + 0.03, level - 0.03), (0.018, 0.018))
            )
        bow = self.v + 0.32 + 0.5 * (np.abs(self.f - at) - 0.05) ** 2 + 0.03 * pose.smile
        brow = inside(np.maximum(np.abs(bow) - who.brow, np.abs(self.f - at) - size * 1.25), 0.05)
        paint(self.colours, _times(who.hair, 0.8), 0.85 * brow)

    def _paint_nose(self) -> None:
        who = self.subject
        under = self.spot((0, 0.3), (who.nose * 1.5, 0.05), 0.08)
        paint(self.colours, _times(who.skin, 0.55, 0.48, 0.45), 0.7 * under)
        for side in (-1, 1):
            nostril = self.spot((side * who.nose * 0.65, 0.285), (0.035, 0.022))
            paint(self.colours, _times(who.skin, 0.15), nostril)

    def _paint_mouth(self) -> None:
        who, pose = self.subject, self.pose
        bent = self.v - 0.56 + np.float32(pose.smile * 0.9) * self.f**2
        lips = _times(who.skin, 0.72, 0.42, 0.42)
        tall = who.lips + pose.mouth
        upper = inside(ellipse(self.f, bent, (0, -0.01 - pose.mouth / 2), (who.mouth, tall)), 0.04)
        lower = inside(
            ellipse(self.f, bent, (0, 0.035 + pose.mouth / 2), (who.mouth * 0.8, tall)), 0.04
        )
        paint(self.colours, lips, np.maximum(upper, lower))
        gap = ellipse(self.f, bent, (0, 0.01), (who.mouth * 0.9, 0.016 + pose.mouth))
        paint(self.colours, (0.06, 0.02, 0.02), inside(gap, self.edge))

    def _paint_glasses(self) -> None:
        who = self.subject
        rims = np.zeros_like(self.cover)
        for side in (-1, 1):
            rim = ellipse(self.f, self.v, (side * who.eyes_apart, -0.08), (0.235, 0.2))
            rims = np.maximum(rims, inside(np.abs(rim) - 0.018, self.edge))
            glint = self.spot((side * who.eyes_apart - 0.08, -0.17), (0.05, 0.03), 0.05)
            paint(self.colours, (0.9, 0.9, 0.95), 0.4 * glint)
        arms = np.maximum(np.abs(self.v + 0.12) - 0.018, np.abs(self.u) - who.width)
        between = np.maximum(0.235 - np.abs(np.abs(self.f) - who.eyes_apart), arms)
        paint(self.colours, (0.02, 0.02, 0.025), np.maximum(rims, inside(between, self.edge)))

    def lit(self, light: Light) -> tuple[Plane, Plane]:
        """How much light each pixel sends on, and the highlight of the skin in addition."""
        who = self.subject
        ridge = np.exp(-((self.f / who.nose) ** 2)) * inside(np.abs(self.v - 0.08) - 0.18, 0.25)
        tip = np.exp(-((self.f**2 + (self.v - 0.2) ** 2) / who.nose**2))
        bump = (0.07 * ridge + 0.06 * tip) / who.nose
        across = np.clip(self.u / self.half, -1, 1) + bump * 2 * self.f / who.nose
        down = 0.9 * np.clip(self.v, -1, 1) + 0.05 * tip * (self.v - 0.2) / who.nose**2
        front = self.height + 0.3
        length = np.sqrt(across**2 + down**2 + front**2)
        right, below, near = light.towards
        facing = np.clip((across * right + down * below + front * near) / length, 0, 1)
        halfway = math.sqrt(2 + 2 * near)
        mirrored = (across * right + down * below + front * (near + 1)) / (length * halfway)
        shade = light.ambient + (1 - light.ambient) * 1.25 * facing
        chin = inside(np.abs(self.u) - 0.5, 0.5) * np.exp(
            -((np.maximum(self.v - 1, 0) / 0.25) ** 2)
        )
        body = (light.ambient + (1 - light.ambient) * 0.8) * (1 - 0.35 * chin)
        on_head = inside(ellipse(self.u, self.v, (0, 0), (who.width * 1.1, 1.1)), 0.12)
        shade = on_head * shade + (1 - on_head) * body
        highlight = who.shine * np.clip(mirrored, 0, 1) ** 24 * self.head * (1 - light.ambient)
        return shade.astype(np.float32), highlight.astype(np.float32)
