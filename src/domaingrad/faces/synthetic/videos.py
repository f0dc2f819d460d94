"""Videos of live faces and of attacks, frame by frame as JPEG files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np

from .cameras import CAMERAS, OVERSAMPLING, Shot, draw_shot, photograph
from .canvas import Picture, draw_backdrop, paint_backdrop
from .faces import Subject, draw_light, draw_poses, draw_subject, paint_person
from .recapture import draw_held, draw_print, draw_screen, printed, replayed, shaken

Attack = Literal["", "print", "replay"]
"""What a video shows; empty for a live face."""

NEAR = (0.8, 1.15)
"""Least and most half height of a photograph or screen, in halves of the frame's.

At 1 and above, its edges are out of sight."""


def generator(seed: int, *names: object) -> np.random.Generator:
    """Random numbers that belong to a seed and names, and to no others."""
    text = "/".join(map(str, (seed, *names)))
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(digest, "big")))


def video(
    seed: int, domain: str, subject: int, attack: Attack, take: int, size: int, frames: int
) -> list[bytes]:
    """One video's frames as JPEG files.

    Args:
        seed: of the whole data set.
        domain: letter of the camera.
        subject: number of the person in the domain.
        attack: what the video shows.
        take: number of the video among those of the person and the attack.
        size: height and width in pixels.
        frames: how many.
    """
    person = draw_subject(generator(seed, domain, "subject", subject))
    rng = generator(seed, domain, "video", subject, attack, take)
    camera = CAMERAS[domain]
    shot = draw_shot(camera.habits, not attack, rng)
    scenes = {"": _live, "print": _print, "replay": _replay}[attack]
    return [
        photograph(scene, camera, shot, rng) for scene in scenes(person, shot, size, frames, rng)
    ]


def _live(
    person: Subject, shot: Shot, size: int, frames: int, rng: np.random.Generator
) -> Iterator[Picture]:
    backdrop = paint_backdrop(draw_backdrop(shot.wall, rng), size * OVERSAMPLING)
    light = draw_light(rng)
    for pose in draw_poses(frames, shot.framing, rng):
        scene = backdrop.copy()
        paint_person(scene, person, pose, light)
        yield scene


def _print(
    person: Subject, shot: Shot, size: int, frames: int, rng: np.random.Generator
) -> Iterator[Picture]:
    backdrop = paint_backdrop(draw_backdrop(shot.wall, rng), size * OVERSAMPLING)
    zoom = rng.uniform(*NEAR)
    (photo,) = _recorded(person, shot.framing / zoom, size, 1, rng)
    sheet = draw_print(draw_held(zoom, rng), rng)
    for _ in range(frames):
        yield printed(photo, backdrop.copy(), sheet, size)
        sheet = replace(sheet, held=shaken(sheet.held, rng))


def _replay(
    person: Subject, shot: Shot, size: int, frames: int, rng: np.random.Generator
) -> Iterator[Picture]:
    backdrop = paint_backdrop(draw_backdrop(shot.wall, rng), size * OVERSAMPLING)
    zoom = rng.uniform(*NEAR)
    photos = _recorded(person, shot.framing / zoom, size, frames, rng)
    screen = draw_screen(draw_held(zoom, rng), rng)
    for moment, photo in enumerate(photos):
        yield replayed(photo, backdrop.copy(), screen, size, moment)
        screen = replace(screen, held=shaken(screen.held, rng))


def _recorded(
    person: Subject, scale: float, size: int, frames: int, rng: np.random.Generator
) -> list[Picture]:
    """The attacker's own photographs of a live face, well lit and exposed."""
    backdrop = paint_backdrop(draw_backdrop(rng.uniform(0.2, 0.8), rng), size * OVERSAMPLING)
    light = draw_light(rng)
    photos = []
    for pose in draw_poses(frames, scale, rng):
        photo = backdrop.copy()
        paint_person(photo, person, pose, light)
        photos.append(np.clip(photo * (0.35 / float(photo.mean())) ** 0.7, 0, 1))
    return photos
