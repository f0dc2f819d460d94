"""Files of data that we write, damaged: the same again, or a clear error; never something else."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from domaingrad.bench.domains import DataError, News, cache, load, vectors

from .invoking import command, deadline
from .test_damage import damages, spoil

SOME = settings(max_examples=60, deadline=None, derandomize=True)


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


def contents(told, **options):
    with deadline():
        data = load(told, options, News(), torch.Generator())
    return {
        name: [np.asarray(tensor[:]).tobytes() for tensor in domain.tensors]
        for name, domain in data.domains.items()
    }
