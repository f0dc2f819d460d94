"""Real data from their usual files: prepared for the commands that read them.

A folder of sources holds what cannot be handed on: ``pacs64.zip`` (PACS at 64²), ``weights/``
(SqueezeNet 1.0's, with torchvision's names), ``mnist/``, ``usps/`` and ``mnist_m/`` in their usual
files, and ``heart_disease_4sites.csv.gz``.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pandas as pd
from PIL import Image

KEPT_OF_MNIST = (8000, 2000)
"""Of the training and of the test digits: a seventh, so that two cores can evaluate them."""
KEPT_DIGITS = 2000
"""Of each of MNIST, MNIST-M and USPS."""


def nothing(_: Path, __: Path) -> None:
    """Built-in data."""


def idx(path: Path) -> np.ndarray:
    """What an idx file holds."""
    raw = gzip.decompress(path.read_bytes())
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">i4", dimensions, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def mnist(shared: Path, data: Path) -> None:
    """The first digits of both parts of MNIST, as idx files."""
    for part, kept in zip(("train", "t10k"), KEPT_OF_MNIST, strict=True):
        for kind in ("images-idx3", "labels-idx1"):
            name = f"{part}-{kind}-ubyte.gz"
            array = idx(shared / "mnist" / name)[:kept]
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (data / name).write_bytes(gzip.compress(head + array.tobytes(), mtime=0))


def heart(shared: Path, data: Path) -> None:
    """Disease if the table's ``num`` is above 0."""
    rows = pd.read_csv(shared / "heart_disease_4sites.csv.gz")
    rows["disease"] = rows.pop("num").gt(0).map({True: "yes", False: "no"})
    rows.to_csv(data / "heart.csv", index=False)


def pacs(shared: Path, data: Path) -> None:
    """The archive."""
    with ZipFile(shared / "pacs64.zip") as archive:
        for name in archive.namelist():
            if name.startswith("PACS/") and not name.startswith("PACS/splits"):
                archive.extract(name, data)


def digits(shared: Path, data: Path) -> None:
    """MNIST, MNIST-M and USPS as a folder; MNIST's are none that MNIST-M's are made of."""
    images, labels = (
        idx(shared / "mnist" / f"train-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1")
    )
    _save(data / "mnist", images[-KEPT_DIGITS:], labels[-KEPT_DIGITS:])
    sheet = np.asarray(Image.open(shared / "mnist_m" / "mnist_m_test.jpg").convert("RGB"))
    tiles = sheet.reshape(-1, 32, 100, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    labels = np.load(shared / "mnist_m" / "mnist_m_test_labels.npy")
    _save(data / "mnist-m", tiles[:KEPT_DIGITS], labels[:KEPT_DIGITS])
    rows = np.loadtxt(shared / "usps" / "zip.train.gz")[:KEPT_DIGITS]
    images = ((rows[:, 1:] + 1) * 127.5).round().astype(np.uint8).reshape(-1, 16, 16)
    _save(data / "usps", images, rows[:, 0].astype(int))


def _save(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:05}.png")
