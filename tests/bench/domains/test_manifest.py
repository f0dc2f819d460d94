"""Lists of images are read in every form that is promised, and their faults are named."""

import json

import pytest
import torch

from domaingrad.bench.domains.data import DataError, News
from domaingrad.bench.domains.decoding import decode
from domaingrad.bench.domains.manifest import MANIFEST, ManifestOptions

ROWS = [
    ("x/0.png", "dog", "photo"),
    ("x/1.png", "cat", "sketch"),
    ("x/2.png", "cat", "photo"),
    ("y/3.png", "dog", "sketch"),
]
NAMES = ("path", "label", "domain")


@pytest.fixture
def folder(tmp_path, save):
    for number, (file, _, _) in enumerate(ROWS):
        save(tmp_path / file, number)
    return tmp_path


def as_csv(names, rows):
    return "".join(",".join(map(str, row)) + "\n" for row in (names, *rows))


def as_objects(names, rows):
    return json.dumps([dict(zip(names, row, strict=True)) for row in rows])


def as_lists(names, rows):
    return json.dumps(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def read(folder, content, name="list.csv", **options):
    (folder / name).write_text(content, encoding="utf-8")
    return MANIFEST.read(folder / name, ManifestOptions(size=6, **options), News())


@pytest.mark.parametrize(
    ("written", "name"),
    [(as_csv, "list.csv"), (as_objects, "list.json"), (as_lists, "list.JSON")],
)
def test_the_listed_images_are_read(folder, written, name):
    data = read(folder, written(NAMES, ROWS), name)
    assert data.name == "list"
    assert list(data.domains) == ["photo", "sketch"]
    assert data.classes == ("cat", "dog")
    for domain, dataset in data.domains.items():
        rows = [row for row in ROWS if row[2] == domain]
        expected = torch.stack([decode(folder / file, 6) for file, _, _ in rows])
        assert torch.equal(dataset.tensors[0][torch.arange(len(rows))], expected)
        assert [data.classes[label] for label in dataset.tensors[1]] == [row[1] for row in rows]


def test_other_columns_are_named_by_the_options(folder):
    content = as_csv(("path", "animal", "label", "site"), [(f, a, "?", s) for f, a, s in ROWS])
    data = read(folder, content, target="animal", domain="site")
    assert data.classes == ("cat", "dog")
    assert list(data.domains) == ["photo", "sketch"]


def test_absolute_paths_quotes_and_a_byte_order_mark_are_understood(folder):
    rows = [(folder / f, f'"{a}, {a}"', d) for f, a, d in ROWS]
    data = read(folder, "\ufeff" + as_csv(NAMES, rows))
    assert data.classes == ("cat, cat", "dog, dog")


def test_numbers_are_names_of_classes(folder):
    rows = [(file, len(label) + (label == "cat"), domain) for file, label, domain in ROWS]
    assert read(folder, as_objects(NAMES, rows), "list.json").classes == ("3", "4")


def test_all_missing_files_are_found_at_once(folder):
    rows = [*ROWS, *((f"gone/{number}.png", "dog", "photo") for number in range(12))]
    with pytest.raises(DataError) as caught:
        read(folder, as_csv(NAMES, rows))
    message = str(caught.value)
    assert message.startswith("12 of the 16 images")
    assert "gone/9.png and 2 more" in message
    assert "gone/10.png" not in message


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (
            as_csv(("path", "label", "domian"), ROWS),
            "l.csv",
            r"no column 'domain'; did you mean 'domian'",
        ),
        (
            as_csv(("file", "label", "domain"), ROWS),
            "l.csv",
            r"no column 'path'.*Known: file, label, domain\.",
        ),
        (
            as_objects(("path", "lable", "domain"), ROWS),
            "l.json",
            r"row 1: .*'label'; did you mean 'lable'",
        ),
        (
            as_csv(NAMES, [*ROWS, ("x/0.png", "", "photo")]),
            "l.csv",
            r"row 5: .* as label, found ''",
        ),
        (as_csv(NAMES, [*ROWS, ("x/0.png", "dog")]), "l.csv", r"line 6: expected 3 .*found 2"),
        (as_csv(NAMES, [(*ROWS[0], 1)]), "l.csv", r"line 2: expected 3 .*found 4"),
        (as_objects(NAMES, [("x/0.png", None, "a")]), "l.json", r"row 1: .*label, found None"),
        (as_objects(NAMES, [("x/0.png", 1.5, "a")]), "l.json", r"row 1: .*label, found 1\.5"),
        (as_csv(NAMES, [*ROWS, ROWS[0]]), "l.csv", r"more than once \(1\): .*0\.png"),
        (as_csv(NAMES, ROWS[:1] + ROWS[2:3]), "l.csv", r"two domains or more, found 1 \(photo\)"),
        (as_csv(NAMES, []), "l.csv", r"has a header and no rows"),
        ("", "l.csv", r"l\.csv is empty"),
        ("[]", "l.json", r"lists no images"),
        ('{"path": ["a"], "label": []}', "l.json", r"same length, found .*'path': 1, 'label': 0"),
        ("3", "l.json", r"expected a list of objects, or an object of lists"),
        ("{", "l.json", r"cannot be read: "),
        ("a", "l.txt", r"ends in \.csv or \.json, found l\.txt"),
    ],
)
def test_faults_are_named(folder, content, name, message):
    with pytest.raises(DataError, match=message):
        read(folder, content, name)


def test_what_is_not_text_is_named(folder):
    (folder / "l.csv").write_bytes(b"path,label,domain\n\x00\x01,a,b\n")
    with pytest.raises(DataError, match=r"l\.csv should be a table as text and holds"):
        MANIFEST.read(folder / "l.csv", ManifestOptions(), News())


def test_a_missing_manifest_is_named(folder):
    with pytest.raises(DataError, match=r"at .*gone\.csv, found no file"):
        MANIFEST.read(folder / "gone.csv", ManifestOptions(), News())
