"""Pictures of three cameras in two classes that are told by colour."""

from pathlib import Path

import numpy as np
from PIL import Image

CAMERAS = ("north", "south", "west")
COLOURS = {"cat": (200, 60, 60), "dog": (60, 60, 200)}


def save_cameras(root: Path, size: int, each: int) -> Path:
    """Write so many of each class and camera, as ``root/camera/class/number.png``."""
    generator = np.random.default_rng(0)
    for camera in CAMERAS:
        for name, colour in COLOURS.items():
            (root / camera / name).mkdir(parents=True)
            for number in range(each):
                pixels = generator.normal(colour, 25, (size, size, 3)).clip(0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(
                    root / camera / name / f"{number}.png"
                )
    return root
