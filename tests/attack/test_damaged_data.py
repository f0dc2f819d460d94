"""Files of data that we write, damaged: the same again, or a clear error; never something else."""

import contextlib
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image

from domaingrad.bench.disk import ForeignFileError
from domaingrad.bench.domains import DataError, News, cache, load, vectors
from domaingrad.faces.layouts import prepare_faces
from domaingrad.faces.synthetic import write_fas_synthetic
from domaingrad.faces.synthetic.dataset import SETTINGS

from .invoking import command, deadline
from .test_damage import damages, spoil
from .test_foreign import everything

SOME = settings(max_examples=40, deadline=None, derandomize=True)


def slow_but_first(names):
    first, *others = names
    return [first, *(pytest.param(name, marks=pytest.mark.slow) for name in others)]


@pytest.fixture(scope="session")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOMAINGRAD_CACHE", str(tmp_path_factory.mktemp("own cache")))
        yield cache.cache_directory()


@pytest.mark.parametrize("name", [cache.IMAGES, cache.CONTENTS, cache.STAMP])
@SOME
@given(damage=damages())
def test_damaged_decoded_images_are_decoded_anew(good, own_cache, name, damage):
    files = sorted(good["photos"].rglob("*.png"))
    found = []
    for _ in range(2):
        decoded = cache.decoded(files, 8, News())
        found.append((decoded.digest, decoded.images.fetch(range(len(files))).numpy().tobytes()))
        [place] = own_cache.glob(f"images/*/{name}")
        spoil(place, damage)
    assert found[0] == found[1]
    cache.decoded(files, 8, News())  # whole again, for the next damage


@SOME
@given(damage=damages())
def test_damaged_embeddings_are_made_anew(own_cache, damage):
    inputs, made = torch.arange(300.0), []

    def make(rows):
        made.append(len(rows))
        return torch.stack([rows, rows.sin()], 1)

    for _ in range(3):
        found = vectors.kept(["a key"], inputs, make, News(), lambda _: None)
        assert torch.equal(found, make(inputs))
        places = sorted(own_cache.glob("embeddings/*/*-*"))
        assert len(places) == 3
        made.clear()
        spoil(places[1], damage)
    vectors.kept(["a key"], inputs, make, News(), lambda _: None)
    assert made in ([], [vectors.KEPT])  # a damage may leave a file as it is


@pytest.fixture(scope="session")
def embedded(good, tmp_path_factory):
    path = tmp_path_factory.mktemp("embedded") / "a.npz"
    assert command([*good["embed command"], path]).exit_code == 0
    return path


@settings(SOME, max_examples=400)
@given(damage=damages())
def test_damaged_embeddings_of_a_file_are_refused_or_the_same(embedded, damage):
    whole = contents(f"embeddings:{embedded}")
    with tempfile.TemporaryDirectory() as root:
        place = Path(root) / embedded.name
        place.write_bytes(embedded.read_bytes())
        spoil(place, damage)
        try:
            found = contents(f"embeddings:{place}")
        except DataError:
            return
        assert found == whole


@pytest.mark.parametrize(
    "bit", [0, *(pytest.param(bit, marks=pytest.mark.slow) for bit in range(1, 8))]
)
def test_embeddings_of_which_any_bit_is_flipped_are_refused_or_the_same(tmp_path, bit):
    place = tmp_path / "a.npz"
    with place.open("wb") as file:
        np.savez(
            file, embeddings=np.arange(8.0).reshape(8, 1), label=np.array(list("abababab")),
            domain=np.array(list("xxxxyyyy")), made_by=np.array("null"),
        )  # fmt: skip
    content, whole = place.read_bytes(), contents(f"embeddings:{place}")
    refused = 0
    for at in range(len(content)):
        place.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
        try:
            found = contents(f"embeddings:{place}")
        except DataError:
            refused += 1
        else:
            assert found == whole, at
    assert refused > len(content) // 2


@pytest.fixture(scope="session")
def generated(tmp_path_factory):
    root = tmp_path_factory.mktemp("generated")
    write_fas_synthetic(root, subjects=3, frames=1, size=32)
    return root


OF_FACES = ["O/all_label.json", "O/train_label.json", "O/frames/000-live-0/0.jpg", SETTINGS]


@pytest.mark.parametrize("name", slow_but_first(OF_FACES))
@SOME
@given(damage=damages())
def test_damaged_lists_and_frames_are_refused_or_known_as_other_data(
    generated, own_cache, name, damage
):
    """Lists have the layout of others, and so no checksum of ours."""
    told = {"size": 32}
    whole, fingerprint = contents(f"faces:{generated}", **told), data_of(generated).fingerprint
    with tempfile.TemporaryDirectory() as place:
        root = shutil.copytree(generated, Path(place) / generated.name)
        spoil(root / name, damage)
        try:
            found = contents(f"faces:{root}", **told)
        except DataError:
            return
        assert found == whole or data_of(root).fingerprint != fingerprint


def data_of(root):
    return load(f"faces:{root}", {"size": 32}, News(), torch.Generator())


@SOME
@given(damage=damages())
def test_a_generated_set_of_damaged_settings_is_left_as_it_is(generated, damage):
    with tempfile.TemporaryDirectory() as place:
        root = shutil.copytree(generated, Path(place) / generated.name)
        spoil(root / SETTINGS, damage)
        before = everything(root)
        with contextlib.suppress(DataError):
            write_fas_synthetic(root, subjects=3, frames=1, size=32)
        assert everything(root) == before


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    for part, file in (("Train", "1_1_01_1"), ("Train", "1_1_01_2"), ("Test", "1_1_36_1")):
        for number in range(3):
            place = root / "OULU" / f"{part}_files" / file / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(place)
    prepare_faces("oulu-npu", root / "OULU", root / "out", 2, News())
    return root


OF_PREPARED = ["prepare-faces.json", "all_label.json", "real_label.json",
               "frames/Train_files/1_1_01_1/00000.png"]  # fmt: skip


@pytest.mark.parametrize("name", slow_but_first(OF_PREPARED))
@SOME
@given(damage=damages())
def test_a_damaged_prepared_set_is_refused_or_has_its_lists_again(prepared, name, damage):
    whole = everything(prepared / "out")
    with tempfile.TemporaryDirectory() as place:
        out = shutil.copytree(prepared / "out", Path(place) / "out")
        spoil(out / "oulu" / name, damage)
        before = everything(out)
        try:
            prepare_faces("oulu-npu", prepared / "OULU", out, 2, News())
        except ForeignFileError:
            assert everything(out) == before
            return
        again = everything(out)
        assert {n: again[n] for n in whole if n.endswith("_label.json")} == {
            n: whole[n] for n in whole if n.endswith("_label.json")
        }


def contents(told, **options):
    with deadline():
        data = load(told, options, News(), torch.Generator())
    return {
        name: [np.asarray(tensor[torch.arange(len(tensor))]).tobytes() for tensor in domain.tensors]
        for name, domain in data.domains.items()
    }
