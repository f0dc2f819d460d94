"""Published data sets are recognised, and every difference from them is told."""

import zipfile
from collections import Counter
from pathlib import Path

import pytest

from domaingrad.bench.domains import presets
from domaingrad.bench.domains.data import DataError, News
from domaingrad.bench.domains.folder import FolderOptions
from domaingrad.bench.domains.presets import PRESETS, PUBLISHED, read_preset
from domaingrad.bench.names import UnknownNameError
from domaingrad.bench.protocol import PowerOfTwo

SMALL = FolderOptions(size=6)
CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")

# DomainBed's paper (arXiv 2007.01434, section 3) and, for TerraIncognita, what its script leaves.
TOTALS = {
    "pacs": 9_991,
    "vlcs": 10_729,
    "office-home": 15_588,
    "terra-incognita": 24_330,
    "domain-net": 586_575,
}


def read(name, root):
    return PRESETS[name].read(root, SMALL, News())


def pacs(root, sort_images, count=1, domains=tuple(PUBLISHED["pacs"].domains), classes=CLASSES):
    return sort_images(root, {f"{d}/{c}": count for d in domains for c in classes})


def test_counts_add_up_to_the_published_totals():
    for name, total in TOTALS.items():
        assert sum(PUBLISHED[name].domains.values()) == total


def test_every_published_set_has_a_reader():
    assert PRESETS.keys() == PUBLISHED.keys() == {*TOTALS, "sviro"}
    for name, reader in PRESETS.items():
        assert reader.kind == name
        assert PUBLISHED[name].title in reader.summary


def test_a_part_of_the_data_is_welcome_and_noted(tmp_path, sort_images):
    data = read("pacs", pacs(tmp_path / "any", sort_images))
    assert data.name == "pacs"
    assert list(data.domains) == ["art_painting", "cartoon", "photo", "sketch"]
    assert data.notes == (
        "numbers of images differ from PACS as published: art_painting 7 instead of 2,048, "
        "cartoon 7 instead of 2,344, photo 7 instead of 1,670, sketch 7 instead of 3,929",
    )


def test_spellings_of_a_domain_that_copies_use_are_known(tmp_path, sort_images):
    domains = ("Art Painting", "CARTOON", "photo", "sketch")
    data = read("pacs", pacs(tmp_path / "any", sort_images, domains=domains))
    assert sorted(data.domains) == sorted(domains)


def test_where_no_counts_are_known_none_are_compared(tmp_path, sort_images):
    domains = PUBLISHED["sviro"].domains
    root = sort_images(tmp_path / "s", {f"{d}/{c}": 1 for d in domains for c in range(7)})
    assert read("sviro", root).notes == ()


def test_every_difference_is_told_at_once(tmp_path, sort_images):
    domains = ("art_painting", "photo", "sketch", "clipart")
    root = pacs(tmp_path / "any", sort_images, domains=domains, classes=CLASSES[:5])
    with pytest.raises(DataError) as caught:
        read("pacs", root)
    message = str(caught.value)
    assert "is not PACS: domains cartoon are missing" in message
    assert "domains clipart do not belong to it" in message
    assert "it has 7 classes and there are 5" in message


@pytest.mark.parametrize("name", PUBLISHED)
def test_without_the_folder_it_says_where_to_get_it(tmp_path, name):
    preset = PUBLISHED[name]
    with pytest.raises(DataError) as caught:
        read(name, tmp_path / "gone")
    for fact in (preset.title, preset.source, preset.licence, preset.download):
        assert fact in str(caught.value)


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'office-home'"):
        read_preset("oficehome")


def test_pacs_itself_has_no_difference(test_data, tmp_path, monkeypatch):
    archive = test_data / "pacs64.zip"
    if not archive.exists():
        pytest.skip(f"no {archive}")
    with zipfile.ZipFile(archive) as file:
        names = [Path(name) for name in file.namelist() if not name.endswith("/")]
    for folder in {name.parent for name in names}:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (tmp_path / name).touch()
    # All its names, but none of its pixels, as decoding them all takes seconds.
    monkeypatch.setattr(presets, "read_labelled", lambda *arguments: arguments)
    name, images, _, _, notes = read("pacs", tmp_path / "PACS")
    assert name == "pacs"
    assert {image.label for image in images} == {*CLASSES}
    assert Counter(image.domain for image in images) == PUBLISHED["pacs"].domains
    assert notes == ("ignored folders without images: splits",)


def test_domain_net_searches_smaller_batches_as_domain_bed_does():
    """⌊2^U(3, 5)⌋ in its hparams_registry, in place of ⌊2^U(3, 5.5)⌋."""
    assert PUBLISHED["domain-net"].batch == PowerOfTwo(3, 5)
    assert [p.name for p in PUBLISHED.values() if p.batch is not None] == ["domain-net"]
