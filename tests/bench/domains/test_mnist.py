"""MNIST's files become the domains of ColoredMNIST and RotatedMNIST, or say why they cannot."""

import gzip
import struct
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from domaingrad.bench.domains import load
from domaingrad.bench.domains.data import DataError, News
from domaingrad.bench.domains.digits import ANGLES, COLOUR_FLIP
from domaingrad.bench.domains.mnist import COLORED_MNIST, ROTATED_MNIST, Digits, MNISTOptions
from domaingrad.bench.runs.settings import TrainConfig
from domaingrad.bench.runs.training import drawing

TRAIN, TEST = 90, 30


def idx(array):
    """An idx file of bytes, by the description on MNIST's page."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def made_up(train=TRAIN, test=TEST, side=28):
    rng = np.random.default_rng(0)
    files = {}
    for part, count in (("train", train), ("t10k", test)):
        files[f"{part}-images-idx3-ubyte"] = rng.integers(1, 256, (count, side, side))
        files[f"{part}-labels-idx1-ubyte"] = rng.integers(0, 10, count)
    return files


def write(folder, files, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in files.items():
        content = idx(array)
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def read(reader, folder, news=None, trial=None):
    options = MNISTOptions(drawn="once" if trial is None else "each-trial")
    generator = torch.Generator().manual_seed(trial or 0)
    return reader.read(folder, options, news or News(), generator)


@pytest.mark.parametrize("reader", [COLORED_MNIST, ROTATED_MNIST], ids=lambda reader: reader.kind)
def test_packed_plain_and_torchvisions_files_are_the_same_data(reader, tmp_path):
    plain = read(reader, write(tmp_path / "plain", made_up()))
    for other in (
        read(reader, write(tmp_path / "packed", made_up(), packed=True)),
        read(reader, write(tmp_path / "torchvision" / "MNIST" / "raw", made_up()).parents[1]),
    ):
        assert other.fingerprint == plain.fingerprint
        for name, domain in plain.domains.items():
            for ours, theirs in zip(domain.tensors, other.domains[name].tensors, strict=True):
                assert torch.equal(ours, theirs)


def test_the_fingerprint_changes_with_one_pixel_and_with_the_kind(tmp_path):
    files = made_up()
    folder = write(tmp_path, files)
    before = {read(reader, folder).fingerprint for reader in (COLORED_MNIST, ROTATED_MNIST)}
    files["t10k-images-idx3-ubyte"][-1, -1, -1] ^= 1
    after = read(COLORED_MNIST, write(tmp_path, files)).fingerprint
    assert len({*before, after}) == 3


def test_coloured_digits_keep_every_image_once_in_the_channel_of_their_colour(tmp_path):
    files = made_up()
    data = read(COLORED_MNIST, write(tmp_path, files))
    assert data.classes == ("5 to 9", "0 to 4")
    assert list(data.domains) == list(COLOUR_FLIP)
    assert data.preparation == Digits(channels=2, height=28, width=28)
    stored = torch.cat([domain.tensors[0] for domain in data.domains.values()])
    assert stored.dtype == torch.uint8
    # The made-up images have no pixel 0, so a channel is empty only if it was emptied.
    assert ((stored.flatten(2) > 0).all(2).sum(1) == 1).all()
    assert ((stored.flatten(2) == 0).all(2).sum(1) == 1).all()
    originals = np.concatenate([a for name, a in files.items() if "images" in name])
    assert {image.numpy().tobytes() for image in stored.sum(1).to(torch.uint8)} == {
        image.astype(np.uint8).tobytes() for image in originals
    }


def test_each_trial_draws_order_flips_and_colors_anew_unless_told(tmp_path):
    folder = write(tmp_path, made_up())
    for reader in (COLORED_MNIST, ROTATED_MNIST):
        once, first, again, second = (read(reader, folder, trial=t) for t in (None, 1, 1, 2))
        same = [torch.equal(first.domains[n].tensors[0], again.domains[n].tensors[0])
                for n in first.domains]  # fmt: skip
        other = [torch.equal(first.domains[n].tensors[0], second.domains[n].tensors[0])
                 for n in first.domains]  # fmt: skip
        assert all(same)
        assert not any(other)
        # Trials are of the same data; runs with one draw for all are others.
        assert first.fingerprint == second.fingerprint != once.fingerprint


def test_what_a_trial_draws_does_not_depend_on_where_the_files_lie(tmp_path):
    places = [write(tmp_path / name, made_up()) for name in ("here", "there")]
    configs = [TrainConfig(f"colored-mnist:{place}", None, trial=2) for place in places]
    found = [load(c.data, {}, News(), drawing(c)) for c in configs]
    assert all(
        torch.equal(one.tensors[0], other.tensors[0])
        for one, other in zip(*(each.domains.values() for each in found), strict=True)
    )
    other = load(configs[0].data, {}, News(), drawing(replace(configs[0], trial=3)))
    assert not torch.equal(other.domains["+90%"].tensors[0], found[0].domains["+90%"].tensors[0])


def test_other_counts_than_mnists_are_noted(tmp_path):
    (note,) = read(ROTATED_MNIST, write(tmp_path, made_up())).notes
    assert "70,000" in note
    assert "120" in note


def test_rotating_tells_how_far_it_is(tmp_path):
    heard = []
    news = News(advance=lambda *args: heard.append(args))
    read(ROTATED_MNIST, write(tmp_path, made_up()), news)
    assert heard == [("rotating digits", 20 * n, 120) for n in range(1, 7)]


def test_bytes_are_brought_to_one():
    stored = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    seen = Digits(channels=1, height=16, width=16)(stored)
    np.testing.assert_allclose(seen.numpy().ravel(), np.arange(256) / 255, rtol=1e-6)
    assert seen.dtype == torch.float32


def replaced(name, content):
    def break_it(folder):
        (folder / name).write_bytes(content((folder / name).read_bytes()))

    return break_it


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (replaced(IMAGES, lambda _: b""), f"{IMAGES} should .* starts with 00000803, .* nothing"),
        (replaced(IMAGES, lambda _: b"<html>not found"), "starts with 3c68746d"),
        (replaced(LABELS, lambda _: idx(np.zeros((30, 1)))), f"{LABELS} .* 1-dimensional"),
        (replaced(IMAGES, lambda raw: raw[:6]), "bytes for its shape"),
        (replaced(IMAGES, lambda raw: raw[:-1]), "should have 70,576 .* has 70,575"),
        (replaced(IMAGES, lambda raw: raw + b"\0"), "should have 70,576 .* has 70,577"),
        (replaced(IMAGES, lambda raw: gzip.compress(raw)[:-9]), "cannot be read"),
        (replaced(LABELS, lambda _: idx(np.zeros(29))), "30 images .* 29 labels"),
        (replaced(LABELS, lambda _: idx(np.full(30, 10))), "labels up to 10"),
        (
            replaced("t10k-images-idx3-ubyte", lambda _: idx(np.zeros((30, 27, 27)))),
            "images of one size",
        ),
    ],
)
def test_a_broken_file_is_named(tmp_path, break_it, complaint):
    break_it(write(tmp_path, made_up()))
    with pytest.raises(DataError, match=complaint):
        read(COLORED_MNIST, tmp_path)


def test_too_few_digits_to_deal_out_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"at least 100 digits .* has 5"):
        read(ROTATED_MNIST, write(tmp_path, made_up(train=3, test=2)))


def test_without_files_and_torchvision_it_says_where_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.*https://.*11 MB.*CC BY-SA"):
        read(COLORED_MNIST, tmp_path / "nowhere")


def test_absent_files_are_downloaded_by_torchvision_which_is_said(tmp_path, monkeypatch):
    def download(root, download):
        assert download
        write(tmp_path / "MNIST" / "raw", made_up(), packed=True)

    monkeypatch.setitem(sys.modules, "torchvision.datasets", SimpleNamespace(MNIST=download))
    heard = []
    data = read(ROTATED_MNIST, tmp_path, News(say=heard.append))
    assert sum(len(domain) for domain in data.domains.values()) == TRAIN + TEST
    assert len(heard) == 1
    assert "11 MB" in heard[0]
    assert str(tmp_path) in heard[0]


def test_a_failed_download_says_why_and_how_to_do_without(tmp_path, monkeypatch):
    def download(root, download):
        raise RuntimeError("no route to host")

    monkeypatch.setitem(sys.modules, "torchvision.datasets", SimpleNamespace(MNIST=download))
    with pytest.raises(DataError, match=r"no route to host.*put the four official files"):
        read(ROTATED_MNIST, tmp_path)


def originals(folder):
    """All digits in the order of the files, as numpy reads them."""
    parts = {"images": [], "labels": []}
    for part in ("train", "t10k"):
        for what, header, shape in (("images", 16, (-1, 28, 28)), ("labels", 8, (-1,))):
            (path,) = folder.glob(f"{part}-{what}*")
            raw = gzip.decompress(path.read_bytes())
            parts[what].append(np.frombuffer(raw, np.uint8, offset=header).reshape(shape))
    return np.concatenate(parts["images"]), np.concatenate(parts["labels"])


def test_real_digits_have_the_promised_noise_and_colours(test_data):
    images, labels = originals(test_data / "mnist")
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    flipped = total = 0
    data = read(COLORED_MNIST, test_data / "mnist")
    assert data.notes == ()
    for name, domain in data.domains.items():
        x, y = domain.tensors
        colour = x[:, 1].flatten(1).any(1).long()
        # 23,332 draws: 5 standard deviations are below 1.4 %.
        assert abs((colour == y).double().mean() - (1 - COLOUR_FLIP[name])) < 0.014
        shapes = x.sum(1).to(torch.uint8).numpy()
        digits = np.array([known[image.tobytes()] for image in shapes])
        flipped += int(((digits < 5) != y.numpy().astype(bool)).sum())
        total += len(y)
    assert total == 70_000
    # 5 standard deviations of 70,000 draws.
    assert abs(flipped / total - 0.25) < 0.0082


def touches_border(images):
    return images.sum((1, 2)) > images[:, 2:-2, 2:-2].sum((1, 2))


def test_real_digits_are_rotated_as_pillow_rotates_them(test_data):
    images, labels = originals(test_data / "mnist")
    order = torch.randperm(70_000, generator=torch.Generator().manual_seed(0)).numpy()
    domains = read(ROTATED_MNIST, test_data / "mnist").domains
    assert list(domains) == list(ANGLES)
    start = 0
    for name, angle in ANGLES.items():
        x, y = (tensor.numpy() for tensor in domains[name].tensors)
        rows = order[start : start + len(y)]
        np.testing.assert_array_equal(y, labels[rows])
        # What touches the border fades into black here and does not with Pillow.
        inside = np.flatnonzero(~touches_border(images[rows[:50]]))
        assert len(inside) > 30
        for sample in inside:
            original = Image.fromarray(images[rows[sample]])
            theirs = np.asarray(original.rotate(angle, resample=Image.Resampling.BILINEAR))
            # Both round to whole grey levels, Pillow its coordinates also.
            assert np.abs(x[sample, 0].astype(int) - theirs).max() <= 1
        start += len(y)
    assert start == 70_000


def test_names_with_a_dot_before_idx_are_the_same_files(tmp_path):
    files = made_up()
    dotted = {name.replace("-idx", ".idx"): array for name, array in files.items()}
    plain = read(ROTATED_MNIST, write(tmp_path / "plain", files))
    for packed in (False, True):
        other = read(ROTATED_MNIST, write(tmp_path / f"dotted {packed}", dotted, packed=packed))
        assert other.fingerprint == plain.fingerprint
