"""Every kind of image file gives the pixels that people see, or an error that names it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from domaingrad.bench.domains import decoding
from domaingrad.bench.domains.data import DataError
from domaingrad.bench.domains.decoding import decode, decode_each, is_image

ORIENTATION = 0x0112

# What a viewer does with the stored pixels [h, w, 3], by EXIF orientation.
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
    8: np.rot90,
}


def pixels(size=8):
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


def decoded(path, size=8):
    image = decode(path, size)
    assert image.dtype == torch.uint8
    assert image.shape == (3, size, size)
    assert image.is_contiguous()
    return image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_turns_the_image_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(decoded(tmp_path / "a.png"), UPRIGHT[orientation](pixels()))


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("LA", (77, 10), (77, 77, 77)),
        ("RGBA", (10, 20, 30, 0), (10, 20, 30)),
        ("I;16", 257 * 100, (100, 100, 100)),
        ("I;16", 65535, (255, 255, 255)),
        ("I", 257 * 100, (100, 100, 100)),
    ],
)
def test_every_mode_gives_its_colour(tmp_path, mode, value, expected):
    path = tmp_path / "a.tif"
    if mode.startswith("I"):
        Image.fromarray(np.full((4, 4), value, np.uint16 if mode == "I;16" else np.int32)).save(
            path
        )
    else:
        Image.new(mode, (4, 4), value).save(path)
    with Image.open(path) as image:
        assert image.mode == mode
    assert (decoded(path, 2) == expected).all()


def test_a_palette_with_transparency_gives_its_colours(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(tmp_path / "a.png", transparency=bytes([255, 0]))
    assert (decoded(tmp_path / "a.png", 2) == (200, 100, 50)).all()


def test_of_an_animation_the_first_frame_counts(tmp_path):
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert (decoded(tmp_path / "a.gif", 2) == (255, 0, 0)).all()


def test_squashed_with_an_antialiased_bilinear_filter(tmp_path):
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 256, (90, 50, 3), dtype=np.uint8)
    Image.fromarray(stored).save(tmp_path / "a.png")
    exact = F.interpolate(
        torch.from_numpy(stored).permute(2, 0, 1)[None].double(),
        size=(16, 16),
        mode="bilinear",
        antialias=True,
    )
    # Pillow rounds to bytes after each of the two axes.
    assert (decode(tmp_path / "a.png", 16) - exact[0]).abs().max() <= 1.0


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png cannot be decoded: there is no such file\."):
        decode(tmp_path / "gone.png", 8)


@pytest.mark.parametrize(
    ("content", "cause"), [(b"", "the file is empty"), (b"text", "no image format is recognised")]
)
def test_what_is_no_image_is_named(tmp_path, content, cause):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.png cannot be decoded: {cause}\."):
        decode(tmp_path / "a.png", 8)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp"])
def test_a_file_cut_short_is_named(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels(64)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"a\.{suffix} cannot be decoded: "):
        decode(path, 8)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp", "tif"])
def test_damage_anywhere_gives_pixels_or_a_data_error_and_nothing_else(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels(16)).save(path)
    whole = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = whole.copy()
        damaged[rng.integers(0, min(len(whole), 200), 4)] = rng.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        try:
            decode(path, 4)
        except DataError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("limit", [40, 10])  # twice the limit is an error, the limit a warning
def test_an_image_of_too_many_pixels_is_refused(tmp_path, monkeypatch, limit):
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=r"a\.png cannot be decoded: .*decompression bomb"):
        decode(tmp_path / "a.png", 8)


@pytest.mark.parametrize(
    ("stored", "cause"),
    [
        (np.full((4, 4), 0.5, np.float32), "floating-point numbers of unknown range"),
        (np.full((4, 4), 70_000, np.int32), "integers beyond 16 bits, of unknown range"),
        (np.full((4, 4), -1, np.int32), "integers beyond 16 bits, of unknown range"),
    ],
)
def test_pixels_of_unknown_range_are_refused_not_clipped(tmp_path, stored, cause):
    Image.fromarray(stored).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=cause):
        decode(tmp_path / "a.tif", 2)


def test_many_files_keep_their_order_and_errors_their_places(tmp_path, save):
    files = [save(tmp_path / f"{number}.png", number) for number in range(2 * decoding.AT_ONCE + 3)]
    files[5].write_bytes(b"")
    outcomes = list(decode_each(files, 6))
    assert isinstance(outcomes.pop(5), DataError)
    del files[5]
    for path, image in zip(files, outcomes, strict=True):
        assert torch.equal(image, decode(path, 6))


def test_images_are_told_by_their_suffix():
    assert is_image("a/B.JPEG")
    assert not is_image("jpeg")
