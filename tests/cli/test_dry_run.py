"""A dry run tells counts and costs of images, digits and embeddings, and decodes nothing."""

import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from domaingrad.bench.domains import (
    DataError,
    cache,
    decoding,
    fetched,
    load,
    mnist,
    texts,
    vectors,
)
from domaingrad.bench.domains.data import News
from domaingrad.bench.models import build
from domaingrad.cli.app import app
from tests.bench.domains.test_mnist import made_up, write
from tests.cameras import save_cameras

SIZE, EACH = 32, 6
QUICK = ["--methods", "erm", "--draws", 1, "--trials", 1, "--steps", 3, "--checkpoints", 1]
QUICK += ["--batch", 4, "--accelerator", "cpu", "--selection", "training-domain-validation"]


def sweep(*arguments):
    told = [str(each) for each in ("sweep", *QUICK, *arguments)]
    return CliRunner().invoke(app, told)


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    place = tmp_path / "cache"
    monkeypatch.setenv("DOMAINGRAD_CACHE", str(place))
    return place


@pytest.fixture
def undecodable(monkeypatch):
    """From here on nothing can be decoded, unpacked, turned, or embedded from what lies on disk."""

    def refuse(*_, **__):
        raise AssertionError("decodes")

    def forbid():
        for module in (cache, fetched):
            monkeypatch.setattr(module, "decode_each", refuse)
        monkeypatch.setattr(decoding, "decode", refuse)
        monkeypatch.setattr(mnist, "read_idx", refuse)
        monkeypatch.setattr(mnist, "rotated", refuse)
        monkeypatch.setattr(vectors, "kept", refuse)
        monkeypatch.setattr(texts, "kept", refuse)

    return forbid


@pytest.fixture
def cameras(tmp_path):
    return save_cameras(tmp_path / "cameras", SIZE, EACH)


@pytest.fixture
def weights(tmp_path):
    torch.save(build("squeezenet", (3, SIZE, SIZE), 5).state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def test_images_are_counted_and_what_decoding_writes_is_told(cameras, cached, undecodable):
    undecodable()
    told = sweep("--data", cameras, "--size", SIZE, "--backbone", "mnist-cnn", "--dry-run")
    assert told.exit_code == 0, told.output
    assert "cameras: 3 runs of 3 steps" in told.stderr
    assert "To be done: 3 runs" in told.stderr
    # 3 cameras × 2 classes, 3 bytes a pixel.
    assert f"36 images to {SIZE}×{SIZE}, once: {36 * 3 * SIZE**2 / 1000:.3g} kB" in told.stderr
    assert not cached.exists()


def test_images_that_are_fetched_as_needed_are_not_decoded_either(cameras, undecodable):
    undecodable()
    as_needed = ["--fetch", "as-needed", "--dry-run"]
    told = sweep("--data", cameras, "--size", SIZE, "--backbone", "mnist-cnn", *as_needed)
    assert told.exit_code == 0, told.output
    assert "To be done: 3 runs" in told.stderr


def test_a_frozen_backbone_embeds_no_image_and_tells_how_long_it_will(
    cameras, cached, weights, undecodable
):
    undecodable()
    frozen = ["--backbone", "squeezenet", "--weights", weights, "--frozen-backbone"]
    told = sweep("--data", cameras, "--size", SIZE, *frozen, "--dry-run")
    assert told.exit_code == 0, told.output
    assert re.search(r"36 images by squeezenet, once: about \d", told.stderr)
    assert "To be done: 3 runs" in told.stderr
    assert not cached.exists()


@pytest.mark.parametrize("kind", ["colored-mnist", "rotated-mnist"])
@pytest.mark.parametrize("packed", [False, True])
def test_digits_are_counted_by_the_headers_of_their_files(tmp_path, undecodable, kind, packed):
    folder = write(tmp_path / "mnist", made_up(), packed)
    data = load(f"{kind}:{folder}", {}, News(), torch.Generator())
    undecodable()
    counted = load(f"{kind}:{folder}", {}, News(), torch.Generator(), counted=True)
    assert data.preparation == counted.preparation
    for (name, one), (other_name, other) in zip(
        data.domains.items(), counted.domains.items(), strict=True
    ):
        assert name == other_name
        assert one.tensors[0].shape == other.tensors[0].shape
        assert one.tensors[0].dtype == other.tensors[0].dtype
        assert one.tensors[1].dtype == other.tensors[1].dtype
        assert other.tensors[1].unique().tolist() == [*range(len(data.classes))]
    told = sweep("--data", f"{kind}:{folder}", "--dry-run")
    assert told.exit_code == 0, told.output
    assert f"{len(data.domains)} held-out domains" in told.stderr


def test_a_sweep_that_is_there_is_known_again_though_nothing_is_decoded(tmp_path, undecodable):
    folder = write(tmp_path / "mnist", made_up())
    asked = ["--data", f"colored-mnist:{folder}", "--jobs", 1, "--out", tmp_path / "out"]
    assert sweep(*asked).exit_code == 0
    undecodable()
    told = sweep(*asked, "--dry-run")
    assert told.exit_code == 0, told.output
    assert "To be done: 0 runs" in told.stderr
    assert "colored-mnist is taken for the data that the sweep" in told.stderr
    other = sweep(*asked, "--seed", 1, "--dry-run")
    assert "seed" in other.stderr
    assert other.exit_code == 2


def test_images_that_are_decoded_already_are_found_again(cameras, tmp_path, undecodable):
    seen = ["--size", SIZE, "--backbone", "mnist-cnn", "--jobs", 1, "--out", tmp_path / "out"]
    assert sweep("--data", cameras, *seen).exit_code == 0
    undecodable()
    told = sweep("--data", cameras, *seen, "--dry-run")
    assert "To be done: 0 runs" in told.stderr
    assert "once:" not in told.stderr
    assert "taken for" not in told.stderr


def test_texts_are_not_embedded(tmp_path, undecodable, monkeypatch):
    rows = [f"{'ab'[i % 2]},{'good' if i % 3 else 'bad'} thing,{int(i % 3 > 0)}" for i in range(60)]
    (tmp_path / "texts.csv").write_text("\n".join(["shop,text,label", *rows]))
    asked = []

    def one(_, lines):
        asked.append(len(lines))
        return torch.from_numpy(np.ones((len(lines), 8), np.float32))

    monkeypatch.setattr(texts, "embedded_texts", one)
    monkeypatch.setattr(texts, "_digest_of", lambda _: "1")
    undecodable()
    columns = ["--text", "text", "--target", "label", "--domain", "shop", "--text-by", "wordllama"]
    told = sweep("--data", f"text:{tmp_path / 'texts.csv'}", *columns, "--dry-run")
    assert told.exit_code == 0, told.output
    assert asked == [1]


def test_no_run_is_trained_on_what_is_only_counted(cameras):
    with pytest.raises(DataError, match="counted"):
        load(str(cameras), {"counted": True}, News(), torch.Generator())
