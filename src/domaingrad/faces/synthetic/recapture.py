"""Faces that are no faces: photographs on paper and videos on screens, held before a camera.

A recapture has marks that no camera hides altogether: the printer's dots and the paper's edge; the
screen's grid, which beats with the camera's own pixels, its dark bands, its frame and its glare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .canvas import Colour, Picture, Plane, coordinates, inside, paint, planes, rectangle

INKS = np.array(
    [[0.88, 0.12, 0.06], [0.22, 0.84, 0.22], [0.04, 0.16, 0.80]], dtype=np.float32
)  # share of red, green and blue that full cyan, magenta and yellow swallow
WASHED_OUT = 1.1
"""Exponent by which a print is lighter than the photograph; 1 would be true to it."""
SCREEN_ANGLES = (15.0, 75.0, 45.0)


@dataclass(frozen=True)
class Held:
    """How a flat thing is held before the camera."""

    x: float
    y: float
    zoom: float
    """Half of its height, in halves of the frame's."""
    roll: float
    lean: tuple[float, float]
    """How much smaller it is at its right and lower edge than in the middle, relative."""
    bend: float
    """How far the middle of an upright edge is off the straight line."""


@dataclass(frozen=True)
class Print:
    """A photograph on paper."""

    held: Held
    paper: Colour
    period: float
    """Of the printer's dots, in pixels of the camera."""
    depth: float
    """How much more ink there is in the middle of a dot than between dots."""
    black: float
    """Light that full ink sends back."""
    margin: float
    slope: float
    """How much brighter the paper is on one side, as it is bent."""


@dataclass(frozen=True)
class Screen:
    """A video on a telephone or a tablet."""

    held: Held
    aspect: float
    """Width over height."""
    pitch: float
    """Of the screen's pixels, in pixels of the camera."""
    gap: float
    """How dark it is between the screen's pixels, from 0 to 1."""
    cast: Colour
    black: float
    """Light of a black pixel."""
    bezel: float
    bands: float
    """Depth of the dark bands, relative."""
    band_height: float
    """In halves of the frame's height."""
    band_phase: float
    glare: tuple[float, float, float, float]
    """Middle, radius and brightness of the lamp's reflection."""


def draw_held(zoom: float, rng: np.random.Generator) -> Held:
    """Hold something about upright, so large in the frame."""
    x, y, roll, right, down, bend = rng.normal(0, (0.06, 0.06, 0.06, 0.05, 0.05, 0.03))
    return Held(x, y, zoom, roll, (right, down), bend)


def shaken(held: Held, rng: np.random.Generator) -> Held:
    """A moment later, as the hand trembles: the whole thing moves and nothing within it."""
    x, y, roll = rng.normal(0, (0.015, 0.015, 0.012))
    return replace(held, x=held.x + x, y=held.y + y, roll=held.roll + roll)


def draw_print(held: Held, rng: np.random.Generator) -> Print:
    """Print on some paper with some printer."""
    warm = rng.normal(0, 0.03)
    white = rng.uniform(0.78, 0.95)
    return Print(
        held=held,
        paper=(white * (1 + warm), white, white * (0.98 - warm)),
        period=rng.uniform(2.3, 3.4),
        depth=rng.uniform(0.65, 1.25),
        black=rng.uniform(0.02, 0.08),
        margin=rng.uniform(0.03, 0.12),
        slope=rng.normal(0, 0.15),
    )


def draw_screen(held: Held, rng: np.random.Generator) -> Screen:
    """Play on some screen, in some room."""
    x, y = rng.uniform(-0.8, 0.8, 2)
    return Screen(
        held=replace(held, bend=0.0),
        aspect=rng.uniform(0.75, 1.0),
        pitch=rng.uniform(1.2, 2.7),
        gap=rng.uniform(0.22, 0.48),
        cast=(rng.uniform(0.82, 1.0), rng.uniform(0.93, 1.02), rng.uniform(1.02, 1.25)),
        black=rng.uniform(0.015, 0.05),
        bezel=rng.uniform(0.05, 0.12),
        bands=rng.uniform(0.04, 0.12),
        band_height=rng.uniform(0.25, 0.8),
        band_phase=rng.uniform(0, 2 * math.pi),
        glare=(x, y, rng.uniform(0.12, 0.3), rng.uniform(0.1, 0.7)),
    )


def printed(photo: Picture, scene: Picture, sheet: Print, size: int) -> Picture:
    """The scene with a printed photograph before it.

    Args:
        photo: of a face, shape [3, n, n].
        scene: what is behind the sheet, shape [3, m, m].
        sheet: how it is printed and held.
        size: pixels of the camera along each side.
    """
    p, q, edge = _on(sheet.held, scene.shape[-1])
    image = _sampled(photo, p, q)
    wanted = 1 - np.clip(image, 0, 1) ** np.float32(1 / WASHED_OUT)
    step = 2 * sheet.period / (size * sheet.held.zoom)
    left = np.ones_like(scene)
    for ink, angle, swallowed in zip(wanted, SCREEN_ANGLES, INKS, strict=True):
        dots = _halftone(ink, sheet.depth * _dots(p, q, step, angle))
        left *= 1 - swallowed[:, None, None] * dots
    left = sheet.black + (1 - sheet.black) * left
    off_margin = inside(rectangle(p, q, (1, 1)), edge)
    paper = planes(sheet.paper) * (1 + np.float32(sheet.slope) * p)
    half = 1 + sheet.margin
    _darken(scene, p, q, (half, half), 0.4)
    paint(scene, paper, inside(rectangle(p, q, (half, half)), edge))
    paint(scene, paper * left, off_margin)
    return scene


def replayed(photo: Picture, scene: Picture, screen: Screen, size: int, moment: int) -> Picture:
    """The scene with a screen before it that shows a photo.

    Args:
        photo: of a face, shape [3, n, n].
        scene: what is behind the screen, shape [3, m, m].
        screen: how it shows and is held.
        size: pixels of the camera along each side.
        moment: number of the frame; the bands wander.
    """
    p, q, edge = _on(screen.held, scene.shape[-1])
    half = (screen.aspect, 1.0)
    shown = screen.black + (1 - screen.black) * _sampled(photo, p, q)
    shown *= planes(screen.cast) * _grid(p, q, 2 * screen.pitch / (size * screen.held.zoom),
                                         screen.gap)  # fmt: skip
    _, y = coordinates(scene.shape[-1])
    phase = screen.band_phase + 1.9 * moment
    shown *= 1 + np.float32(screen.bands) * np.sin(2 * math.pi * y / screen.band_height + phase)
    around = (half[0] + screen.bezel, half[1] + 1.6 * screen.bezel)
    _darken(scene, p, q, around, 0.3)
    paint(scene, (0.012, 0.012, 0.014), inside(rectangle(p, q, around, 0.12), edge))
    paint(scene, shown, inside(rectangle(p, q, half), edge))
    x0, y0, radius, bright = screen.glare
    spot = np.exp(-(((p - x0) ** 2 + 2.5 * (q - y0) ** 2) / radius**2))
    veil = 0.03 * np.clip(1 + p - q, 0, 2)
    scene += (np.float32(bright) * spot + veil) * inside(rectangle(p, q, around, 0.12), edge)
    return scene


def _on(held: Held, pixels: int) -> tuple[Plane, Plane, float]:
    """Which point of a thing held each pixel sees, and how wide 1.5 pixels are on it."""
    x, y = coordinates(pixels)
    x, y = (x - np.float32(held.x)) / held.zoom, (y - np.float32(held.y)) / held.zoom
    cos, sin = math.cos(held.roll), math.sin(held.roll)
    p, q = cos * x + sin * y, cos * y - sin * x
    away = 1 + np.float32(held.lean[0]) * p + np.float32(held.lean[1]) * q
    p, q = p / away, q / away
    return p + np.float32(held.bend) * (q * q - 1), q, 3 / (pixels * held.zoom)


def _sampled(photo: Picture, p: Plane, q: Plane) -> Picture:
    """The photo at points from -1 to 1, between its pixels bilinear, beyond its edge the same."""
    last = photo.shape[-1] - 1
    across, down = (np.clip((line + 1) * ((last + 1) / 2) - 0.5, 0, last) for line in (p, q))
    left, top = (np.minimum(line.astype(np.intp), last - 1) for line in (across, down))
    across, down = across - left, down - top
    corner = top * (last + 1) + left
    flat = photo.reshape(3, -1)
    upper = flat[:, corner] * (1 - across) + flat[:, corner + 1] * across
    corner += last + 1
    lower = flat[:, corner] * (1 - across) + flat[:, corner + 1] * across
    return np.asarray(upper * (1 - down) + lower * down, np.float32)


def _halftone(ink: Plane, dots: Plane) -> Plane:
    """Ink in dots, about as much in all; they are deepest in half tones."""
    return np.clip(ink + dots * (0.2 + 2.4 * ink * (1 - ink)), 0, 1)


def _dots(p: Plane, q: Plane, period: float, angle: float) -> Plane:
    """A printer's screen: 0.5 where ink is put first, -0.5 where last."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = np.float32(2 * math.pi / period)
    waves = np.cos(turn * (cos * p + sin * q)) + np.cos(turn * (cos * q - sin * p))
    return np.asarray(0.25 * waves, np.float32)


def _grid(p: Plane, q: Plane, pitch: float, gap: float) -> Picture:
    """A screen's pixels: stripes of red, green and blue between dark lines; 1 on average."""
    turn = np.float32(2 * math.pi / pitch)
    lines = 1 + np.float32(gap) * np.cos(turn * q)
    stripes = [1 + np.float32(gap) * np.cos(turn * p + 2 * math.pi * part / 3) for part in range(3)]
    return np.asarray(np.stack(stripes) * lines, np.float32)


def _darken(scene: Picture, p: Plane, q: Plane, half: tuple[float, float], depth: float) -> None:
    """Shadow of a thing on what is behind it."""
    scene *= 1 - depth * inside(rectangle(p - np.float32(0.05), q - np.float32(0.07), half), 0.15)
