"""Photographs are prepared and varied as torchvision's transforms do it, image by image."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torch.nn import functional as F

from domaingrad.bench.domains import photographs
from domaingrad.bench.domains.data import DataError
from domaingrad.bench.domains.decoding import decode
from domaingrad.bench.domains.photographs import Photographs, resampled
from domaingrad.bench.domains.recipes import AUGMENTATIONS

functional = pytest.importorskip("torchvision.transforms.v2.functional")
transforms = pytest.importorskip("torchvision.transforms.v2")

THEIRS = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def stored(n=8, height=16, width=None):
    shape = (n, 3, height, width or height)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator())


def images(n=8):
    """In [0, 1], with greys, black, white and pure colours among them."""
    chosen = stored(n).float() / 255
    chosen[:, :, 0] = chosen[:, :1, 0]
    chosen[:, :, 1, 0], chosen[:, :, 1, 1] = 0, 1
    chosen[:, :, 2] = chosen[:, :, 2].round()
    return chosen


def bare(prepared):
    """Back to [0, 1]."""
    return prepared * STD + MEAN


def test_scaled_and_normalised_as_for_imagenet():
    theirs = functional.normalize(stored().float() / 255, MEAN.flatten(), STD.flatten())
    torch.testing.assert_close(Photographs(16)(stored()), theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("number", range(4), ids=lambda n: photographs.ADJUSTMENTS[n].__name__)
def test_each_adjustment_is_torchvisions_with_a_factor_per_image(number):
    given = images()
    factors = torch.linspace(-0.3, 0.3, len(given)) + (1 if number < 3 else 0)
    ours = photographs.ADJUSTMENTS[number](given.clone(), factors)
    for image, factor, result in zip(given, factors, ours, strict=True):
        expected = THEIRS[number](image, factor.item())
        torch.testing.assert_close(result, expected, atol=2e-6, rtol=0)


def test_jitter_adjusts_every_image_in_its_own_order_and_within_thirty_percent():
    given = images(40)
    draws = torch.rand(40, 4, generator=generator(1))
    draws[0], draws[1] = 0.0, 1.0  # the ends of the ranges
    order = torch.rand(40, 4, generator=generator(2)).argsort(1)
    low = torch.tensor([0.7, 0.7, 0.7, -0.3])
    high = torch.tensor([1.3, 1.3, 1.3, 0.3])
    amounts = low + (high - low) * draws
    ours = given.clone()
    photographs._jitter(ours, draws, order)
    assert len({tuple(row) for row in order.tolist()}) > 10
    for n, image in enumerate(given):
        for number in order[n].tolist():
            image = THEIRS[number](image, amounts[n, number].item())  # noqa: PLW2901
        # A hue may lie at a jump; there a rounding error shows, but only there.
        torch.testing.assert_close(ours[n], image, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20)])
def test_a_crop_is_the_cut_out_region_brought_to_size(height, width):
    given = stored(6, height, width).float() / 255
    crops = torch.tensor(
        [
            [0, 0, width, height],
            [2, 3, 9, 8],
            [width - 8, height - 9, 8, 9],
            [1, 0, width - 1, height],
            [5, 5, 1, 1],
            [0, 4, 10, 7],
        ]
    ).float()
    flipped = torch.tensor([False, True, False, True, False, False])
    ours = photographs._cropped(given, crops, flipped)
    for n, (left, top, w, h) in enumerate(crops.int().tolist()):
        region = given[n : n + 1, :, top : top + h, left : left + w]
        expected = F.interpolate(region, size=(height, width), mode="bilinear")[0]
        expected = expected.flip(2) if flipped[n] else expected
        torch.testing.assert_close(ours[n], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (224, 224)])
def test_crops_are_distributed_as_torchvisions(height, width):
    draws = torch.rand(4000, 2 * photographs.ATTEMPTS + 2, generator=generator())
    ours = photographs._crops(draws, height, width).numpy()
    left, top, w, h = ours.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + w <= width).all()
    assert (top + h <= height).all()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        crop = transforms.RandomResizedCrop(8, scale=(0.7, 1.0))
        blank = [torch.zeros(3, height, width)]
        theirs = [crop.make_params(blank) for _ in range(2000)]
    names = ("left", "top", "width", "height")
    for name, values in zip(names, (left, top, w, h), strict=True):
        # False alarms are rarer than one in 10⁴; the seeds are fixed.
        assert ks_2samp(values, [params[name] for params in theirs]).pvalue > 1e-4, name


def test_where_no_crop_fits_the_whole_image_is_taken():
    # The largest area with the widest ratio, ten times: 16 · √(4/3) pixels of 16.
    draws = torch.full((1, 2 * photographs.ATTEMPTS + 2), 0.999)
    assert photographs._crops(draws, 16, 16).tolist() == [[0, 0, 16, 16]]


def test_the_same_generator_gives_the_same_batch_and_leaves_the_stored_one_alone():
    given = stored()
    preparation = Photographs(16)
    first, same, other = (preparation.augmented(given, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(given, stored())
    assert first.dtype == torch.float32
    assert first.shape == (8, *preparation.shape)
    assert (bare(first) > -1e-5).all()
    assert (bare(first) < 1 + 1e-5).all()


def test_images_of_a_batch_are_varied_each_for_itself():
    given = stored(1).expand(16, -1, -1, -1)
    varied = Photographs(16).augmented(given, generator()).flatten(1)
    assert len(torch.unique(varied, dim=0)) == 16


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_way_of_varying_does_its_own_and_changes_nothing_in_the_draws_of_others(name):
    given = stored(64)
    alone = bare(Photographs(16).augmented(given, generator(), by=[name]))
    rest = [other for other in AUGMENTATIONS if other != name]
    whole, others = (
        Photographs(16).augmented(given, generator(), by=by) for by in (AUGMENTATIONS, rest)
    )
    plain = bare(Photographs(16)(given))
    changed = (alone - plain).abs().flatten(1).amax(1) > 1e-4
    # Share of the images that it changes, to 5 standard deviations of 64 draws; of so few pixels
    # a crop is sometimes the whole.
    share = {"crop": 0.95, "flip": 0.5, "color": 1, "gray": 0.1}[name]
    assert abs(changed.float().mean() - share) <= 5 * (share * (1 - share) / 64) ** 0.5
    if name == "flip":
        torch.testing.assert_close(alone[changed], plain[changed].flip(3), atol=1e-5, rtol=0)
    if name == "gray":
        grey = plain[changed] * torch.tensor([0.2989, 0.587, 0.114])[:, None, None]
        torch.testing.assert_close(
            alone[changed], grey.sum(1, keepdim=True).expand(-1, 3, -1, -1), atol=1e-5, rtol=0
        )
    if name in ("flip", "gray"):
        torch.testing.assert_close(whole[~changed], others[~changed])
    assert not torch.equal(whole, others)


def test_a_tenth_becomes_grey_and_half_is_mirrored():
    given = torch.zeros(4000, 3, 8, 8, dtype=torch.uint8)
    given[:, 0] = 120
    given[:, 1, :, 4:] = 100  # no crop of 70 % leaves either half out
    varied = bare(Photographs(8).augmented(given, generator()))
    spread = varied.amax(1) - varied.amin(1)
    grey = spread.flatten(1).amax(1) < 1e-5
    # 5 standard deviations of 4000 draws: 2.4 % and 4 %.
    assert abs(grey.float().mean() - 0.1) < 0.024
    light = photographs.luminance(varied)[:, 0]
    mirrored = light[:, :, 0].mean(1) > light[:, :, -1].mean(1)
    assert abs(mirrored.float().mean() - 0.5) < 0.04


def test_files_and_folders_are_read_by_name(tmp_path, save):
    one = save(tmp_path / "one.png", 1)
    two = save(tmp_path / "folder" / "deep" / "two.png", 2)
    save(tmp_path / "folder" / ".hidden.png", 3)
    (tmp_path / "folder" / "notes.txt").write_text("none")
    names, batch = Photographs(5).read([one, tmp_path / "folder"])
    assert names == [str(one), str(two)]
    assert torch.equal(batch, torch.stack([decode(one, 5), decode(two, 5)]))


def test_files_that_cannot_be_read_are_named(tmp_path, save):
    with pytest.raises(DataError, match="gone does not exist"):
        Photographs(5).read([tmp_path / "gone"])
    with pytest.raises(DataError, match="holds no image file"):
        Photographs(5).read([tmp_path])
    with pytest.raises(DataError, match="no image files to read"):
        Photographs(5).read([])
    good, bad = save(tmp_path / "good.png"), tmp_path / "bad.png"
    bad.write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 2 images cannot be decoded(.|\n)*bad\.png"):
        Photographs(5).read([good, bad])


def test_a_size_below_one_is_refused():
    with pytest.raises(DataError, match=r"must be 1 or more\. Found 0\."):
        Photographs(0)


def test_everything_is_written_down():
    assert Photographs(64).described() == {"kind": "photographs", "size": 64, "stored": None}
    assert Photographs(64).shape == (3, 64, 64)


def test_an_image_of_one_pixel_survives():
    assert np.isfinite(Photographs(1).augmented(stored(3, 1), generator()).numpy()).all()


@pytest.mark.parametrize("box", [(0, 0, 40, 40), (3, 5, 33, 29), (20, 1, 28, 40)])
@pytest.mark.parametrize("flip", [False, True])
def test_crops_of_a_larger_square_are_those_of_pillow(box, flip):
    pixels = stored(1, 40)
    image = Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).crop(box)
    theirs = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)).astype(float)
    left, top, right, bottom = box
    crops = torch.tensor([[left, top, right - left, bottom - top]], dtype=torch.float32)
    ours = resampled(pixels.float(), crops, torch.tensor([flip]), 16)[0].permute(1, 2, 0).numpy()
    # Pillow rounds to bytes after each of two passes.
    np.testing.assert_allclose(ours[:, ::-1] if flip else ours, theirs, atol=1.01)


def test_images_are_seen_at_their_size_from_a_larger_square():
    preparation = Photographs(16, stored=40)
    assert (preparation.shape, preparation.kept) == ((3, 16, 16), 40)
    given = stored(4, 40)
    small = torch.stack([
        torch.from_numpy(np.array(Image.fromarray(x.permute(1, 2, 0).numpy()).resize(
            (16, 16), Image.Resampling.BILINEAR))).permute(2, 0, 1)
        for x in given
    ])  # fmt: skip
    # A byte of 255, in the smallest standard deviation.
    torch.testing.assert_close(preparation(given), Photographs(16)(small), atol=0.018, rtol=0)
    varied = preparation.augmented(given, generator())
    assert varied.shape == (4, 3, 16, 16)
    assert torch.equal(varied[2:], preparation.augmented(given[2:], generator(), 4, slice(2, 4)))
    # A crop of a constant is that constant.
    plain = torch.full((4, 3, 40, 40), 100, dtype=torch.uint8)
    crops = torch.tensor([[3.0, 4.0, 30.0, 31.0]]).expand(4, 4)
    exact = resampled(plain.double(), crops, torch.zeros(4).bool(), 16)
    torch.testing.assert_close(exact, torch.full((4, 3, 16, 16), 100.0).double())
    with pytest.raises(DataError, match="cannot be stored smaller"):
        Photographs(16, stored=8)
