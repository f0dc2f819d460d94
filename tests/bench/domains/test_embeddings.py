"""Vectors in files: what is found in them, what is refused, how they are standardised."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from domaingrad.bench.domains import DataError, Embeddings, News, load, preparation_from

ROWS = 30


@pytest.fixture
def columns():
    generator = np.random.default_rng(0)
    return {
        "embeddings": generator.normal(size=(ROWS, 4)).astype(np.float32),
        "label": np.array(["cat", "dog", "cow"])[np.arange(ROWS) % 3],
        "domain": np.array(["north", "south"])[np.arange(ROWS) % 2],
        "group": np.array([f"animal {row // 3}" for row in range(ROWS)]),
    }


def npz(path, columns):
    np.savez(path / "own.npz", **columns)
    return path / "own.npz"


def safetensors(path, columns):
    from safetensors.torch import save_file

    numbers, names = {}, {}
    for name, column in columns.items():
        if column.dtype.kind == "U":
            names[name], numbers[name] = np.unique(column, return_inverse=True)
        else:
            numbers[name] = column
    metadata = {name: json.dumps(each.tolist()) for name, each in names.items()}
    tensors = {name: torch.from_numpy(column) for name, column in numbers.items()}
    save_file(tensors, path / "own.safetensors", metadata)
    return path / "own.safetensors"


def parquet_of_vectors(path, columns):
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    vectors = {"embeddings": list(columns["embeddings"])}
    pd.DataFrame(columns | vectors).to_parquet(path / "own.parquet")
    return path / "own.parquet"


def parquet_of_components(path, columns):
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    components = {f"e{at}": column for at, column in enumerate(columns["embeddings"].T)}
    rest = {name: column for name, column in columns.items() if name != "embeddings"}
    pd.DataFrame(components | rest).to_parquet(path / "own.parquet")
    return path / "own.parquet"


def read(path, **options):
    return load(str(path), options, News(), torch.Generator())


@pytest.mark.parametrize("write", [npz, safetensors, parquet_of_vectors, parquet_of_components])
def test_every_kind_of_file_gives_the_same_domains(tmp_path, columns, write):
    data = read(write(tmp_path, columns))
    assert (data.name, data.task, data.classes) == ("own", "classification", ("cat", "cow", "dog"))
    assert list(data.domains) == ["north", "south"]
    for at, name in enumerate(data.domains):
        inputs, labels = data.domains[name].tensors
        assert torch.equal(inputs, torch.from_numpy(columns["embeddings"][at::2]))
        assert [data.classes[label] for label in labels] == columns["label"][at::2].tolist()
        groups = data.groups[name]
        assert [groups.names[g] for g in groups.of_sample] == columns["group"][at::2].tolist()
    assert "domain" in data.notes[0]


def test_arrays_of_other_names_are_named(tmp_path, columns):
    others = {
        "z": columns["embeddings"], "other": columns["embeddings"] + 1,
        "what": columns["label"], "where": columns["domain"],
    }  # fmt: skip
    path = npz(tmp_path, others)
    with pytest.raises(DataError, match=r"each sample's target.*Name it as target"):
        read(path)
    with pytest.raises(
        DataError, match=r"one array of vectors.*other \[30, 4\].*Name it as vector"
    ):
        read(path, target="what", domain="where")
    data = read(path, target="what", domain="where", vector="other")
    assert torch.equal(data.domains["north"].tensors[0], torch.from_numpy(others["other"][::2]))
    assert not data.groups
    assert data.fingerprint != read(path, target="what", domain="where", vector="z").fingerprint


def test_fractions_are_numbers_to_predict_and_whole_numbers_are_classes(tmp_path, columns):
    heights = np.linspace(0, 1, ROWS)
    numbers = read(npz(tmp_path, columns | {"label": heights}))
    assert (numbers.task, numbers.classes) == ("regression", ())
    np.testing.assert_array_equal(numbers.domains["south"].tensors[1], heights[1::2].astype("f4"))
    ages = npz(tmp_path, columns | {"label": np.arange(ROWS) % 3 * 10})
    assert read(ages).classes == ("0", "10", "20")
    assert read(ages, task="regression").task == "regression"


def a_python_object(columns):
    return {"label": columns["label"].astype(object)}


def not_finite(columns):
    vectors = columns["embeddings"].copy()
    vectors[7, 1] = np.nan
    return {"embeddings": vectors}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (a_python_object, r"np\.array\(names, dtype=str\)"),
        (not_finite, r"1 vectors of embeddings are not finite, the first in row 7"),
        (lambda c: {"label": c["label"][:-1]}, r"each of the 30 vectors; found 29 in label"),
        (lambda c: {"domain": np.full(ROWS, "one")}, r"two domains or more in 'domain'; found one"),
        (lambda c: {"label": np.full(ROWS, "one")}, r"two classes or more in 'label'; found one"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(tmp_path, columns, damage, message):
    with pytest.raises(DataError, match=message):
        read(npz(tmp_path, columns | damage(columns)))


def test_a_damaged_file_is_told(tmp_path):
    path = tmp_path / "own.npz"
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match=r"own\.npz cannot be read"):
        read(path)


def test_vectors_are_standardised_by_the_sources_alone():
    generator = np.random.default_rng(1)
    sources = [generator.normal(3, scale, (50, 5)) for scale in (1, 2)]
    sources = [each * [1, 1, 10, 0, 1e-6] for each in sources]
    prepared = Embeddings(5).fitted([torch.from_numpy(each) for each in sources])
    new = generator.normal(size=(7, 5))
    rows = np.concatenate(sources)
    variance = rows.var(0)
    expected = (new - rows.mean(0)) / np.sqrt(variance + 0.01 * variance.mean())
    np.testing.assert_allclose(prepared(torch.from_numpy(new)), expected, rtol=1e-5, atol=1e-5)
    again = preparation_from(json.loads(json.dumps(prepared.described())))
    assert again == prepared
    constant = Embeddings(2).fitted([torch.ones(3, 2)])
    assert torch.equal(constant(torch.ones(1, 2)), torch.zeros(1, 2))


def test_new_files_are_read_by_the_same_name_and_width(tmp_path, columns):
    prepared = read(npz(tmp_path, columns)).preparation
    np.savez(tmp_path / "new.npz", embeddings=columns["embeddings"][:2])
    names, stored = prepared.read([tmp_path / "new.npz"])
    assert names == [f"{tmp_path / 'new.npz'}:1", f"{tmp_path / 'new.npz'}:2"]
    assert torch.equal(stored, torch.from_numpy(columns["embeddings"][:2]))
    np.savez(tmp_path / "new.npz", embeddings=columns["embeddings"][:2, :3])
    with pytest.raises(DataError, match=r"vectors of 4 numbers; .* has 3"):
        prepared.read([tmp_path / "new.npz"])


def test_parquet_without_its_library_says_how_to_get_it(tmp_path, monkeypatch):
    def without(*_):
        raise ImportError("no engine")

    monkeypatch.setattr(pd, "read_parquet", without)
    (tmp_path / "own.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"pip install 'domaingrad\[tables\]'"):
        read(tmp_path / "own.parquet")
