"""Folders of domains of classes are read as they lie, or it is said what is wrong with them."""

import os
import shutil
import unicodedata

import pytest
import torch

from domaingrad.bench.domains.data import DataError, News
from domaingrad.bench.domains.decoding import decode
from domaingrad.bench.domains.folder import FOLDER, FolderOptions

SMALL = FolderOptions(size=6)
GOOD = {"photo/dog": 2, "photo/cat": 1, "sketch/cat": 3, "sketch/dog": 1}


def read(root, options=SMALL):
    return FOLDER.read(root, options, News())


@pytest.fixture
def root(tmp_path, sort_images):
    return sort_images(tmp_path / "pets", GOOD)


def test_images_and_labels_are_those_of_the_folders(root):
    data = read(root)
    assert data.name == "pets"
    assert list(data.domains) == ["photo", "sketch"]
    assert data.classes == ("cat", "dog")
    assert data.preparation.shape == (3, 6, 6)
    assert data.task == "classification"
    assert data.notes == ()
    for domain, dataset in data.domains.items():
        stored, labels = dataset.tensors
        images = stored[torch.arange(len(stored))]
        files = [
            (label, path)
            for label, name in enumerate(data.classes)
            for path in sorted((root / domain / name).iterdir())
        ]
        assert labels.tolist() == [label for label, _ in files]
        assert labels.dtype == torch.int64
        assert torch.equal(images, torch.stack([decode(path, 6) for _, path in files]))


def test_images_are_224_pixels_unless_told(root):
    assert read(root, FolderOptions()).preparation.shape == (3, 224, 224)


def test_the_fingerprint_changes_with_the_data_alone(root, tmp_path, save):
    first = read(root).fingerprint
    assert read(shutil.copytree(root, tmp_path / "copy")).fingerprint == first
    os.rename(root / "photo" / "dog" / "0.png", root / "photo" / "cat" / "1.png")
    moved = read(root).fingerprint
    save(root / "photo" / "cat" / "0.png", 77)
    assert len({first, moved, read(root).fingerprint}) == 3


def test_hidden_files_are_ignored_and_others_noted(root, save):
    save(root / ".cache" / "x" / "a.png")
    save(root / "photo" / ".thumbs" / "a.png")
    save(root / "photo" / "dog" / "._0.png")
    save(root / "__MACOSX" / "photo" / "a.png")
    (root / "photo" / "dog" / "README.txt").write_text("")
    save(root / "cover.png")
    data = read(root)
    assert sum(map(len, data.domains.values())) == sum(GOOD.values())
    assert data.notes == (
        "ignored files that are no images (1): photo/dog/README.txt",
        "ignored images outside class folders (1): cover.png",
    )


def test_a_folder_without_images_beside_the_domains_is_noted(root):
    (root / "splits").mkdir()
    (root / "splits" / "photo.txt").write_text("")
    assert read(root).notes == ("ignored folders without images: splits",)


def test_a_class_missing_in_one_domain_is_allowed_and_noted(root, save):
    save(root / "photo" / "fox" / "a.png")
    data = read(root)
    assert data.classes == ("cat", "dog", "fox")
    assert data.notes == ("class fox has no image in domain sketch",)


def test_links_are_followed_and_those_that_lead_back_are_not(root, tmp_path):
    os.rename(root / "photo", tmp_path / "elsewhere")
    (root / "photo").symlink_to(tmp_path / "elsewhere")
    (root / "sketch" / "cat" / "up").symlink_to(root)
    data = read(root)
    assert len(data.domains["photo"]) == 3
    assert data.notes == ("followed symbolic links (1)",)


def test_names_in_two_unicode_forms_are_one_name(tmp_path, sort_images):
    composed, decomposed = (unicodedata.normalize(form, "Käfer") for form in ("NFC", "NFD"))
    root = sort_images(
        tmp_path / "r", {f"a/{composed}": 1, f"b/{decomposed}": 1, "a/dog": 1, "b/dog": 1}
    )
    data = read(root)
    assert data.classes == (composed, "dog")
    assert data.notes == ()


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, r"found no image"),
        ({"a/x": 1, "a/y": 1}, r"two domains or more, found 1 \(a\)"),
        ({"a/x": 1, "b/x": 1}, r"two classes or more, found 1 \(x\)"),
        ({"a/x": 1, "b/x": 1, "a/y": 0, "b/y": 0}, r"every class .* none in any domain of y"),
        ({"a/x": 1, "a/y": 1, "b/x": 1, "c/x": 0}, r"every domain .* found none in c"),
        ({"a/x": 1, "a/y": 1, "b/x": 1, "c": 0}, r"every domain .* found none in c"),
        (
            {"a/Dog": 1, "b/dog": 1, "a/x": 1},
            r"classes that differ only by .*'Dog' \(in a\) and 'dog' \(in b\)",
        ),
        (
            {"A/x": 1, "a/y": 1},
            r"domains that differ only by .*'A' \(in x\) and 'a' \(in y\)",
        ),
        (
            {"dog": 2, "cat": 2},
            r"expected root/domain/class/image, found root/class/image.*cat, dog in .* hold images",
        ),
        (
            {"a/x": 1, "b/x": 1, "b/y": 1, "c": 3},
            r"found images: c in .* holds images and no class",
        ),
        (
            {"p/a/x": 1, "p/a/y": 1, "p/b/x": 1},
            r"deeper down \(3\).*folders in .*p are the domains",
        ),
        ({"a/x/deep": 1, "a/y": 1, "b/x": 1}, r"deeper down \(1\), such as a/x/deep/0\.png"),
        ({".": 2}, r"found images in no folder \(2\)"),
    ],
)
def test_what_is_not_of_the_layout_is_explained(tmp_path, sort_images, counts, message):
    (tmp_path / "root").mkdir()
    with pytest.raises(DataError, match=message):
        read(sort_images(tmp_path / "root", counts))


def test_what_is_no_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"at .*file, found a file"):
        read(tmp_path / "file")
    with pytest.raises(DataError, match=r"at .*gone, found nothing"):
        read(tmp_path / "gone")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_named(root):
    (root / "photo" / "dog").chmod(0)
    try:
        with pytest.raises(DataError, match=r"photo/dog cannot be listed"):
            read(root)
    finally:
        (root / "photo" / "dog").chmod(0o700)


def test_unreadable_images_are_left_out_if_told_so(root):
    (root / "sketch" / "cat" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 7 images cannot be decoded"):
        read(root)
    data = read(root, FolderOptions(size=6, skip_unreadable=True))
    assert len(data.domains["sketch"]) == 3
    assert data.domains["sketch"].tensors[1].tolist() == [0, 0, 1]
    assert data.notes[0].startswith("left out 1 of 7 images")


def test_a_class_that_is_unreadable_throughout_stops_it_all_the_same(root):
    for domain in ("photo", "sketch"):
        for path in (root / domain / "dog").iterdir():
            path.write_bytes(b"")
    with pytest.raises(DataError, match=r"not one image of class dog can be decoded"):
        read(root, FolderOptions(size=6, skip_unreadable=True))


@pytest.mark.parametrize("names", [("cat", "cat "), ("a b", "a  b"), ("Cat", "cat ")])
def test_classes_that_differ_by_spaces_alone_are_refused(tmp_path, sort_images, names):
    sort_images(tmp_path, {f"{domain}/{name}": 1 for domain in "xy" for name in names})
    with pytest.raises(DataError, match="classes that differ only by case or spaces"):
        read(tmp_path)
