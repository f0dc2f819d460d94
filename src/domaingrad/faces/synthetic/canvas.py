"""Pictures as planes of linear light, and the few shapes that are painted on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating[Any]]
"""One number per pixel, shape [n, n]."""
Picture = NDArray[np.floating[Any]]
"""Linear light, red, green and blue, shape [3, n, n]; 1 is a white wall in good light."""
Colour = tuple[float, float, float]

GAMMA = 2.2


def coordinates(pixels: int) -> tuple[Plane, Plane]:
    """Position of each pixel's centre, to the right and downwards, from -1 to 1."""
    line = ((np.arange(pixels, dtype=np.float32) + 0.5) * 2 / pixels - 1).astype(np.float32)
    x, y = np.meshgrid(line, line)
    return x, y


def inside(distance: Plane, edge: float) -> Plane:
    """Share of each pixel inside a shape, from the signed distance to its outline.

    Args:
        distance: negative inside.
        edge: width of the transition, in the distance's unit.
    """
    return np.asarray(np.clip(0.5 - distance / edge, 0, 1))


def ellipse(x: Plane, y: Plane, centre: tuple[float, float], radii: tuple[float, float]) -> Plane:
    """Signed distance to an ellipse, right to first order near its outline."""
    across, down = (x - centre[0]) / radii[0], (y - centre[1]) / radii[1]
    return np.asarray((np.sqrt(across * across + down * down) - 1) * np.float32(min(radii)))


def rectangle(x: Plane, y: Plane, half: tuple[float, float], corner: float = 0.0) -> Plane:
    """Signed distance to a rectangle about the origin, its corners rounded by a radius."""
    across, down = np.abs(x) - (half[0] - corner), np.abs(y) - (half[1] - corner)
    outside = np.hypot(np.maximum(across, 0), np.maximum(down, 0))
    return outside + np.minimum(np.maximum(across, down), 0) - np.float32(corner)


def planes(colour: Colour) -> NDArray[np.float32]:
    """A colour that broadcasts over a picture, shape [3, 1, 1]."""
    return np.array(colour, dtype=np.float32)[:, None, None]


def paint(picture: Picture, colour: Colour | Picture, mask: Plane) -> None:
    """Cover the masked part of a picture, in place."""
    over = planes(colour) if isinstance(colour, tuple) else colour
    picture += mask * (over - picture)


def linear(colour: Colour) -> Colour:
    """Linear light of a colour that is given as screens show it."""
    red, green, blue = (part**GAMMA for part in colour)
    return red, green, blue


@dataclass(frozen=True)
class Backdrop:
    """What stands behind a face: a wall, and some upright or lying rectangles before it."""

    wall: Colour
    slope: tuple[float, float]
    """Growth of its light to the right and downwards, relative, from the middle to the edge."""
    objects: tuple[tuple[float, float, float, float, Colour], ...]
    """Centre, half width and half height, and colour of each."""


def draw_backdrop(tone: float, rng: np.random.Generator) -> Backdrop:
    """A backdrop about as bright as a tone from 0 to 1."""
    tint = rng.normal(0, 0.05, 3)
    objects = []
    if rng.random() < 0.4:
        objects += _frame(tone, rng)
    for _ in range(rng.integers(1, 5)):
        upright = rng.random() < 0.5
        long, short = rng.uniform(0.4, 1.2), rng.uniform(0.04, 0.3)
        shade = tone * rng.uniform(0.35, 1.5) + rng.normal(0, 0.05, 3)
        red, green, blue = np.clip(shade, 0.02, 1)
        x, y = rng.uniform(-1.1, 1.1, 2)
        half = (short, long) if upright else (long, short)
        objects.append((x, y, *half, (float(red), float(green), float(blue))))
    red, green, blue = np.clip(tone * (1 + tint), 0.02, 1)
    right, down = rng.normal(0, 0.15, 2)
    return Backdrop(
        (float(red), float(green), float(blue)), (float(right), float(down)), tuple(objects)
    )


def _frame(
    tone: float, rng: np.random.Generator
) -> list[tuple[float, float, float, float, Colour]]:
    """A window or a picture in its dark frame, so large that the face hides some of it."""
    x, y = rng.normal(0, 0.25, 2)
    wide, high = rng.uniform(0.5, 1.0, 2)
    bar = rng.uniform(0.03, 0.1)
    dark, light = 0.02 + 0.08 * rng.random(), min(1.0, tone * rng.uniform(0.7, 1.6))
    return [
        (x, y, wide + bar, high + bar, (dark, dark, dark)),
        (x, y, wide, high, (light, light, light)),
    ]


def paint_backdrop(backdrop: Backdrop, pixels: int) -> Picture:
    """The backdrop alone, shape [3, pixels, pixels]."""
    x, y = coordinates(pixels)
    picture = np.empty((3, pixels, pixels), np.float32)
    picture[:] = planes(backdrop.wall)
    for left, top, wide, high, colour in backdrop.objects:
        outline = rectangle(x - np.float32(left), y - np.float32(top), (wide, high))
        paint(picture, colour, inside(outline, 3 / pixels))
    right, down = backdrop.slope
    picture *= np.clip(1 + right * x + down * y, 0.3, 2).astype(np.float32)
    return picture
