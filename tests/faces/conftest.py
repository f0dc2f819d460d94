from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def save() -> Callable[[Path, int], Path]:
    """Writes a 6×6 image whose pixels follow from a number, and makes its folder."""

    def write(path: Path, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def sort_images(save) -> Callable[[Path, dict[str, int]], Path]:
    """Writes so many images into each folder below a root."""

    def write(root: Path, counts: dict[str, int]) -> Path:
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                save(root / folder / f"{number}.png", number)
        return root

    return write


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("DOMAINGRAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
