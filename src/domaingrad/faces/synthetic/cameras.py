"""Four cameras, each with its own faults, and each used in its own way for live faces and attacks.

The way of use is a shortcut: within a domain it tells live faces from attacks. Each habit has one
direction in two domains and the other in the other two, so whichever domain is held out, most of
the others point the wrong way.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .canvas import GAMMA, Colour, Picture, coordinates, planes

OVERSAMPLING = 2
"""Points of a scene per pixel of the camera, along each side."""


@dataclass(frozen=True)
class Habits:
    """Which way live faces differ from attacks in a domain: 1 if they have more, -1 if less."""

    exposure: int
    warmth: int
    defocus: int
    wall: int
    framing: int
    veil: int


@dataclass(frozen=True)
class Camera:
    """A camera, and how it is used."""

    noise: float
    """Standard deviation in the dark, of 1 for white; twice that in white."""
    quality: int
    """Of JPEG, from 1 to 95."""
    subsampled: bool
    """Whether colours are stored at half the resolution."""
    balance: Colour
    """Gains of red, green and blue."""
    blur: float
    """Standard deviation of its blur, in pixels."""
    sharpening: float
    contrast: float
    vignette: float
    """Loss of light in the corners."""
    habits: Habits


CAMERAS = {
    "O": Camera(0.006, 93, False, (1.04, 1.0, 0.94), 0.38, 0.15, 1.0, 0.1,
                Habits(1, 1, 1, -1, 1, -1)),
    "C": Camera(0.009, 85, True, (0.9, 1.0, 1.12), 0.42, 0.0, 0.85, 0.0,
                Habits(-1, 1, -1, 1, 1, 1)),
    "I": Camera(0.0075, 88, False, (0.98, 1.06, 0.92), 0.45, 0.6, 1.15, 0.2,
                Habits(1, -1, -1, 1, -1, -1)),
    "M": Camera(0.009, 70, True, (1.12, 0.98, 0.86), 0.52, 0.3, 0.95, 0.35,
                Habits(-1, -1, 1, -1, -1, 1)),
}  # fmt: skip
"""By the letter of the domain."""

HABIT = 1.8
"""Half the distance between live faces and attacks along a habit, in standard deviations."""


@dataclass(frozen=True)
class Shot:
    """Choices made for one video."""

    exposure: float
    """Stops of light above the camera's own choice."""
    warmth: float
    """Growth of red and loss of blue, in powers of e."""
    defocus: float
    """Standard deviation of the blur that is added, in pixels."""
    wall: float
    """How bright the wall behind is, from 0 to 1."""
    framing: float
    """Half the height of the face, in halves of the frame's height."""
    veil: float
    """Light that the lens scatters over the whole picture, of 1 for the picture's mean."""


def draw_shot(habits: Habits, live: bool, rng: np.random.Generator) -> Shot:
    """Choose as the domain's habits are."""
    side = HABIT if live else -HABIT
    exposure, warmth, defocus, wall, framing, veil = (
        side * direction + rng.standard_normal()
        for direction in (
            habits.exposure, habits.warmth, habits.defocus, habits.wall, habits.framing,
            habits.veil,
        )
    )  # fmt: skip
    return Shot(
        exposure=0.28 * exposure,
        warmth=0.07 * warmth,
        defocus=max(0.0, 0.3 + 0.12 * defocus),
        wall=1 / (1 + math.exp(0.4 - 0.6 * wall)),
        framing=float(np.clip(0.6 + 0.035 * framing, 0.45, 0.75)),
        veil=max(0.0, 0.3 + 0.14 * veil),
    )


def photograph(scene: Picture, camera: Camera, shot: Shot, rng: np.random.Generator) -> bytes:
    """A JPEG file of the scene as the camera sees it.

    Args:
        scene: shape [3, n, n] with n the picture's size times :data:`OVERSAMPLING`.
        camera: which one.
        shot: how it is used.
        rng: of the noise.
    """
    from scipy.ndimage import gaussian_filter  # noqa: PLC0415 - takes seconds to import

    blur = math.hypot(camera.blur, shot.defocus) * OVERSAMPLING
    light = gaussian_filter(scene, (0, blur, blur), truncate=3)
    light = light[:, OVERSAMPLING // 2 :: OVERSAMPLING, OVERSAMPLING // 2 :: OVERSAMPLING]
    light = light + np.float32(shot.veil) * light.mean()
    light = light * _gains(light, camera, shot)
    light *= 1 - np.float32(camera.vignette / 2) * sum(
        line * line for line in coordinates(light.shape[-1])
    )
    noise = rng.standard_normal(light.shape, np.float32)
    light = light + camera.noise * (1 + np.clip(light, 0, 1)) * noise
    picture = np.clip(light, 0, 4) ** np.float32(1 / GAMMA)
    picture = 0.5 + camera.contrast * (picture - 0.5)
    if camera.sharpening:
        picture += camera.sharpening * (picture - gaussian_filter(picture, (0, 1, 1), truncate=3))
    pixels = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        file, "JPEG", quality=camera.quality, subsampling=2 if camera.subsampled else 0
    )
    return file.getvalue()


def _gains(light: Picture, camera: Camera, shot: Shot) -> Picture:
    """Gain of each channel: the camera's exposure, mostly automatic, and its white balance."""
    automatic = (0.3 / float(light.mean())) ** 0.8
    gain = automatic * 2**shot.exposure
    warm = math.exp(shot.warmth)
    red, green, blue = camera.balance
    return planes((gain * red * warm, gain * green, gain * blue / warm))
