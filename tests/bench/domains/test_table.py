"""Tables are read as they are written, and prepared as scikit-learn prepares them."""

import gzip
import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from domaingrad.bench.domains.data import DataError, News
from domaingrad.bench.domains.preparations import preparation_from
from domaingrad.bench.domains.table import TABLE, Table, TableOptions

ROWS = """\
site,age,sex,ward,score,ill
north,60,f,1,1.5,no
north,,m,2,2.5,yes
north,70,m,10,,no
south,50,,1,0.5,yes
south,55,f,3,3.5,yes
south,65,f,,4.5,no
"""


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def read(path, target="ill", domain="site", **options):
    return TABLE.read(path, TableOptions(target=target, domain=domain, **options), News())


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "wards.csv", ROWS)


def test_rows_are_dealt_out_with_numbers_before_the_places_of_texts(path):
    data = read(path, categorical=("ward",))
    assert data.name == "wards"
    assert data.task == "classification"
    assert data.classes == ("no", "yes")
    assert data.preparation == Table(
        numeric=("age", "score"),
        categorical=(("sex", ("f", "m")), ("ward", ("1", "2", "3", "10"))),
        missing=(),
    )
    assert list(data.domains) == ["north", "south"]
    nan = np.nan
    expected = {
        "north": [[60, 1.5, 0, 0], [nan, 2.5, 1, 1], [70, nan, 1, 3]],
        "south": [[50, 0.5, nan, 0], [55, 3.5, 0, 2], [65, 4.5, 0, nan]],
    }
    for name, rows in expected.items():
        inputs, _ = data.domains[name].tensors
        assert inputs.dtype == torch.float64
        np.testing.assert_array_equal(inputs.numpy(), rows)
    assert data.domains["north"].tensors[1].tolist() == [0, 1, 0]
    assert data.domains["south"].tensors[1].tolist() == [1, 1, 0]


def test_a_packed_file_with_bom_and_spaces_is_the_same_table(path, tmp_path):
    spaced = "\ufeff" + ROWS.replace(",", " , ").replace("\n", " \r\n")
    packed = tmp_path / "wards.csv.gz"
    packed.write_bytes(gzip.compress(spaced.encode()))
    for ours, theirs in zip(read(path).domains.items(), read(packed).domains.items(), strict=True):
        assert ours[0] == theirs[0]
        for one, other in zip(ours[1].tensors, theirs[1].tensors, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())


def reference(frame, numeric, categorical):
    """What scikit-learn does, fitted on a frame."""
    return ColumnTransformer(
        [
            (
                "numbers",
                make_pipeline(SimpleImputer(strategy="median"), StandardScaler()),
                list(numeric),
            ),
            (
                "categories",
                make_pipeline(
                    SimpleImputer(strategy="most_frequent"),
                    OneHotEncoder(handle_unknown="ignore", sparse_output=False),
                ),
                list(categorical),
            ),
        ]
    ).fit(frame)


def made_up(tmp_path):
    """A table with missing values, and categories that the source does not have."""
    rng = np.random.default_rng(0)
    n = 300
    frame = pd.DataFrame(
        {
            "place": np.repeat(["a", "b", "c"], n // 3),
            "height": rng.normal(170, 10, n).round(),
            "year": rng.integers(1990, 2020, n),
            "colour": rng.choice(["red", "green", "blue"], n).astype(object),
            "code": rng.integers(1, 13, n),
            "label": rng.integers(0, 2, n),
        }
    )
    frame.loc[frame.place == "c", "colour"] = rng.choice(["violet", "red"], n // 3)
    frame.loc[rng.random(n) < 0.2, "height"] = np.nan
    frame.loc[rng.random(n) < 0.2, "colour"] = np.nan
    frame.to_csv(tmp_path / "made-up.csv", index=False)
    return tmp_path / "made-up.csv", frame


def test_what_a_model_sees_is_scikit_learns_column_transformer(tmp_path):
    path, frame = made_up(tmp_path)
    data = read(path, target="label", domain="place", categorical=("code",))
    sources = [data.domains[name].tensors[0] for name in ("a", "b")]
    table = data.preparation.fitted(sources)
    theirs = reference(frame[frame.place != "c"], ["height", "year"], ["colour", "code"])
    assert table.shape == (2 + 3 + 12,)
    for name, domain in data.domains.items():
        ours = table(domain.tensors[0])
        assert ours.dtype == torch.float32
        expected = theirs.transform(frame[frame.place == name])
        np.testing.assert_allclose(ours[:, 0], expected[:, 0], atol=1e-6)
        # A mean near 2000 is rounded to float32, by up to 6e-5, and the scale is near 9.
        np.testing.assert_allclose(ours[:, 1], expected[:, 1], atol=1e-5)
        np.testing.assert_array_equal(ours[:, 2:], expected[:, 2:])
    unknown = frame[frame.place == "c"].colour.to_numpy() == "violet"
    assert unknown.any()
    assert (table(data.domains["c"].tensors[0])[unknown, 2:5] == 0).all()


def test_heart_disease_is_prepared_as_by_scikit_learn(test_data):
    path = test_data / "heart_disease_4sites.csv.gz"
    categorical = ("cp", "restecg", "slope", "thal")
    data = read(path, target="num", domain="site", missing=("?",), categorical=categorical)
    frame = pd.read_csv(path, na_values="?")
    assert {name: len(domain) for name, domain in data.domains.items()} == {
        "cleveland": 303,
        "hungarian": 294,
        "switzerland": 123,
        "va": 200,
    }
    assert data.classes == ("0", "1", "2", "3", "4")
    numeric = [name for name in frame if name not in {"site", "num", *categorical}]
    assert list(data.preparation.numeric) == numeric
    for held_out in data.domains:
        names = [name for name in data.domains if name != held_out]
        table = data.preparation.fitted([data.domains[name].tensors[0] for name in names])
        theirs = reference(frame[frame.site != held_out], numeric, categorical)
        for name, domain in data.domains.items():
            rows = frame[frame.site == name]
            inputs, labels = domain.tensors
            expected = theirs.transform(rows)
            np.testing.assert_allclose(table(inputs), expected, rtol=1e-6, atol=1e-6)
            np.testing.assert_array_equal(labels, rows.num)


def test_whether_a_value_was_missing_cannot_be_seen():
    table = Table(numeric=("x",), categorical=(("c", ("u", "v")),), missing=())
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [6.0, 1.0]])
    fitted = table.fitted([rows])
    # The median is 2 and the most frequent text the first.
    seen = fitted(torch.tensor([[torch.nan, torch.nan], [2.0, 0.0]]))
    assert torch.equal(seen[0], seen[1])


def test_columns_that_say_nothing_in_the_sources_are_left_out(tmp_path):
    path = write(
        tmp_path / "t.csv",
        "d,y,same,none,word,gone,x\n"
        "a,0,7,,u,,1\n"
        "a,1,,,u,,2\n"
        "b,0,8,3,v,w,3\n"
        "b,1,9,4,u,w,4\n",
    )  # fmt: skip
    data = read(path, target="y", domain="d")
    table = data.preparation.fitted([data.domains["a"].tensors[0]])
    assert dict(table.left_out) == {
        "same": "constant",
        "none": "all missing",
        "word": "constant",
        "gone": "all missing",
    }
    assert [name for name, *_ in table.numbers] == ["x"]
    assert table.shape == (1,)
    # (3 − 1.5) / 0.5 and (4 − 1.5) / 0.5
    assert table(data.domains["b"].tensors[0]).tolist() == [[3.0], [5.0]]
    with pytest.raises(DataError, match="every column"):
        data.preparation.fitted([data.domains["a"].tensors[0][:1]])


def test_before_fitting_nothing_is_guessed(path):
    data = read(path)
    with pytest.raises(RuntimeError, match="fitted"):
        _ = data.preparation.shape
    with pytest.raises(RuntimeError, match="fitted"):
        data.preparation(data.domains["north"].tensors[0])


def test_a_fitted_table_survives_json_and_pickle(path):
    data = read(path, categorical=("ward",), missing=("?",))
    table = data.preparation.fitted([domain.tensors[0] for domain in data.domains.values()])
    assert preparation_from(json.loads(json.dumps(table.described()))) == table
    assert pickle.loads(pickle.dumps(table)) == table


def fitted_on_wards(path):
    data = read(path, categorical=("ward",), missing=("?",), drop=("score",))
    rows = torch.cat([domain.tensors[0] for domain in data.domains.values()])
    return data.preparation.fitted([rows]), rows


def test_new_rows_are_read_by_name_whatever_their_order_and_columns(path, tmp_path):
    table, rows = fitted_on_wards(path)
    one = write(tmp_path / "one.csv", "ward,note,sex,age\n1.0,x,f,60\n10,y,m,70\n")
    two = write(tmp_path / "two.csv", "sex,age,ward\nz,?,99\n,65,?\n")
    names, stored = table.read([one, two])
    assert names == [f"{one}:2", f"{one}:3", f"{two}:2", f"{two}:3"]
    np.testing.assert_array_equal(table(stored[:2]), table(rows[[0, 2]]))
    # Median 60, no known sex, no known ward; 65, most frequent sex f and ward 1.
    sigma = np.std([60, 60, 70, 50, 55, 65])
    np.testing.assert_allclose(
        table(stored[2:]),
        [[0, 0, 0, 0, 0, 0, 0], [5 / sigma, 1, 0, 1, 0, 0, 0]],
        rtol=1e-6,
    )


def test_new_rows_need_only_the_columns_that_are_used(path, tmp_path):
    table, _ = fitted_on_wards(path)
    file = write(tmp_path / "new.csv", "sex\nf\n")
    with pytest.raises(DataError, match=r"new.csv lacks .* age, ward\."):
        table.read([file])
    south = read(path).domains["south"].tensors[0]
    narrow = read(path).preparation.fitted([south[1:2], south[2:3]])
    assert [name for name, _ in narrow.left_out] == ["ward", "sex"]
    _, stored = narrow.read([write(tmp_path / "new.csv", "score,age\n4.5,55\n")])
    # Means 4 and 60, scales 0.5 and 5, in the order of training.
    assert narrow(stored).tolist() == [[-1.0, 1.0]]


def test_texts_where_new_rows_should_have_numbers_are_named(path, tmp_path):
    table, _ = fitted_on_wards(path)
    file = write(tmp_path / "new.csv", "sex,ward,age\nf,1,old\nf,1,60\n")
    with pytest.raises(DataError, match=r"new.csv.*'age'.*'old' in 1 of 2 rows"):
        table.read([file])


@pytest.mark.parametrize(
    ("target", "task", "classes"),
    [
        ([0, 1, 2, 0], "classification", ("0", "1", "2")),
        (["2.0", "10.0", "9.0", "2.0"], "classification", ("2", "9", "10")),
        ([0.5, 1, 2, 0], "regression", ()),
        (["True", "False", "True", "True"], "classification", ("False", "True")),
        (["b", "a", "b", "b"], "classification", ("a", "b")),
        (["b", "1", "a", "c"], "classification", ("1", "a", "b", "c")),
    ],
)
def test_the_task_is_guessed_from_the_target_and_the_guess_noted(tmp_path, target, task, classes):
    rows = "".join(f"{'ab'[i % 2]},{i},{value}\n" for i, value in enumerate(target))
    data = read(write(tmp_path / "t.csv", "d,x,y\n" + rows), target="y", domain="d")
    assert data.task == task
    assert data.classes == classes
    assert sum("tells otherwise" in note for note in data.notes) == 1
    labels = torch.stack([data.domains["a"].tensors[1], data.domains["b"].tensors[1]], 1).flatten()
    if classes:
        assert [classes[label] for label in labels] == [
            str(value).removesuffix(".0") for value in target
        ]
    else:
        assert labels.dtype == torch.float64
        assert labels.tolist() == target


def test_whole_numbers_are_classes_or_numbers_and_between_one_is_asked(tmp_path):
    def table(count):
        rows = "".join(f"{'ab'[i % 2]},{i * i},{i // 2}\n" for i in range(2 * count))
        return write(tmp_path / "t.csv", "d,x,y\n" + rows)

    few = read(table(10), "y", "d")
    assert few.task == "classification"
    assert "taken as 10 classes (0, 1, 2," in few.notes[0]
    assert "whose order does not count; task=regression" in few.notes[0]
    assert read(table(40), "y", "d").task == "regression"
    for count in (11, 39):
        with pytest.raises(DataError, match=f"{count} different whole numbers, from 0 to .*task"):
            read(table(count), "y", "d")
    told = read(table(21), "y", "d", task="classification")
    assert len(told.classes) == 21
    assert told.notes == ()
    assert read(table(10), "y", "d", task="regression").classes == ()


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (("2019.0", "2020.0", "2019"), ["2019", "2020"]),
        (("10", "9", "9"), ["9", "10"]),
        (("1.0", "1.5", "1.5"), ["1.0", "1.5"]),
        (("1.0", "b", "1.0"), ["1.0", "b"]),
        (("12345678901234567", "12345678901234568", "12345678901234568"), None),
    ],
)
def test_domains_of_any_type_are_called_by_short_texts(tmp_path, written, names):
    rows = "".join(f"{name},{i},{i % 2}\n" for i, name in enumerate(written))
    data = read(write(tmp_path / "t.csv", "d,x,y\n" + rows), "y", "d")
    assert list(data.domains) == (names or sorted(set(written)))


def test_rows_without_target_or_domain_are_left_out_and_counted(tmp_path):
    path = write(tmp_path / "t.csv", "d,x,y\na,1,0\na,2,?\n,3,1\nb,4,1\n?,5,0\nb,6,0\n")
    data = read(path, "y", "d", missing=("?",))
    assert {
        name: domain.tensors[0].flatten().tolist() for name, domain in data.domains.items()
    } == {
        "a": [1.0],
        "b": [4.0, 6.0],
    }
    assert any(note.startswith("3 rows") for note in data.notes)


def test_what_looks_wrong_but_can_be_trained_on_is_noted(tmp_path):
    rows = "".join(f"{i},{'aB'[i % 2]},name{i},{i / 7},{'yzn'[i % 3]}\n" for i in range(30))
    path = write(tmp_path / "t.csv", f",d,who,x,y\n{rows}30,A2,name30,1,y\n")
    notes = "\n".join(read(path, "y", "d").notes)
    assert "1 column without a name is left out" in notes
    assert "'who' has 31 different texts in 31 rows and is left out" in notes
    assert "domain A2 has no row of class n, z" in notes


@pytest.mark.parametrize("mark", ["?", "NA", "nan", "-"])
def test_usual_marks_among_numbers_are_missing_values_and_told(tmp_path, mark):
    path = tmp_path / "t.csv"
    path.write_text(f"d,x,c,y\na,{mark},u,0\na,1,{mark},1\nb,{mark},v,0\nb,1.5,u,1\nb,2.5,u,1\n")
    data = read(path, "y", "d")
    assert data.preparation.numeric == ("x",)
    assert data.preparation.missing == (mark,)
    assert dict(data.preparation.categorical) == {"c": ("u", "v")}
    assert f"'{mark}' is taken as missing; missing overrules" in data.notes
    with pytest.raises(DataError, match="'x' should be numbers"):
        read(path, "y", "d", missing=("none",))


@pytest.mark.parametrize("mark", ["absent", "x", "9?"])
def test_an_unlisted_mark_for_missing_values_is_named(tmp_path, mark):
    path = write(
        tmp_path / "t.csv", f"d,x,y\na,{mark},0\na,{mark},1\nb,{mark},0\nb,1.5,1\nb,2.5,1\n"
    )
    with pytest.raises(DataError) as error:
        read(path, "y", "d")
    assert f"'x' should be numbers and has '{mark}' in 3 of 5 rows" in str(error.value)
    assert "list them as missing" in str(error.value)
    assert read(path, "y", "d", missing=(mark,)).preparation.numeric == ("x",)
    assert read(path, "y", "d", categorical=("x",)).preparation.numeric == ()


def test_a_column_of_one_number_and_a_mark_is_not_taken_for_two_categories(tmp_path):
    path = write(tmp_path / "t.csv", "d,x,y\na,gone,0\na,1,1\nb,gone,0\nb,1,1\n")
    with pytest.raises(DataError, match="'x' should be numbers"):
        read(path, "y", "d")


def test_a_mark_in_a_target_of_numbers_is_no_class(tmp_path):
    path = write(tmp_path / "t.csv", "d,x,y\na,1,0.5\na,2,lost\nb,3,1.5\nb,4,2.5\n")
    with pytest.raises(DataError, match="'y' should be numbers and has 'lost'"):
        read(path, "y", "d")
    with pytest.raises(DataError, match="'y' should be numbers and has 'lost'"):
        read(path, "y", "d", task="regression")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("site,age,ill\n", "no rows"),
        ("site,age,age,ill\na,1,2,0\n", "more than one column called age"),
        ("site,age,ill\na,1,0\na,1\n", "line 3: expected 3 fields .* found 2"),
        ("site,age,ill\na,1,0\na,1,0,0\n", "line 3: expected 3 fields .* found 4"),
        ("site,age,ill\na,1,0\na,2,1\n", "two domains or more .* has a;"),
        ("site,age,ill\na,1,0\nb,2,0\n", "two classes or more and has 0;"),
        ("site,age,ill\n,1,0\nb,2,\n", "has none"),
        ("site,ill\na,0\nb,1\n", "no column to predict from"),
        ("site,age,ill\na,1,0\nb,inf,1\n", "'age' should have finite numbers .* inf in 1 rows"),
        ("site,age,ill\na,1,0\nb,1e39,1\n", r"'age' should have finite numbers .* 1e\+39"),
    ],
)
def test_a_table_that_cannot_be_trained_on_says_why(tmp_path, content, complaint):
    with pytest.raises(DataError, match=complaint):
        read(write(tmp_path / "t.csv", content))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00\xff", "should be a table as text and holds bytes of no text"),
        (gzip.compress(ROWS.encode())[:-9], "cannot be read"),
        (b'site,age\na,"' + b"x" * 200_000, "should be a table as text and is not"),
    ],
)
def test_a_file_that_is_no_csv_is_named(tmp_path, content, complaint):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=f"t.csv {complaint}"):
        read(tmp_path / "t.csv")


def test_no_file_and_a_folder_are_no_table(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"target": None}, "target.*columns are site, age, sex, ward, score, ill"),
        ({"domain": None}, "domain.*columns are site, age, sex, ward, score, ill"),
        ({"domain": "stie"}, "did you mean 'site'"),
        ({"target": "il"}, "did you mean 'ill'"),
        ({"categorical": ("wrad",)}, "did you mean 'ward'"),
        ({"drop": ("agee",)}, "did you mean 'age'"),
        ({"target": "site"}, "cannot be two of the target, the domain and the group"),
        ({"drop": ("ill",)}, "ill is the target, the domain or the group"),
        ({"target": "sex", "task": "regression"}, "'sex' should be numbers and has 'f', 'm'"),
    ],
)
def test_options_that_do_not_fit_the_columns_are_refused(path, options, complaint):
    with pytest.raises(DataError, match=complaint):
        read(path, **options)


def test_dropped_columns_are_gone(path):
    table = read(path, drop=("age", "sex")).preparation
    assert table.numeric == ("ward", "score")
    assert table.categorical == ()


def test_the_fingerprint_changes_with_the_file_and_with_what_is_made_of_it(path):
    before = read(path).fingerprint
    assert read(path).fingerprint == before
    assert read(path, drop=("age",)).fingerprint != before
    assert read(write(path, ROWS.replace("60", "61"))).fingerprint != before


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            "west,1,y\nWest ,2,n\neast,3,y\n",
            "domains that differ only by .*, 'West', 'west'",
        ),
        ("west,1,no\neast,2,NO\neast,3,yes\n", "classes that differ only by case"),
    ],
)
def test_one_name_in_two_spellings_is_refused(tmp_path, rows, said):
    """Else a hospital would be held out and trained on."""
    path = write(tmp_path / "t.csv", f"d,x,y\n{rows}")
    with pytest.raises(DataError, match=said):
        read(path, "y", "d")


def test_columns_that_say_nothing_are_noted(tmp_path):
    rows = "".join(f"{'ab'[i % 2]},{i * i},1,,{'yn'[i % 3 == 0]}\n" for i in range(30))
    path = write(tmp_path / "t.csv", f"d,x,constant,empty,y\n{rows}")
    data = read(path, "y", "d")
    fitted = data.preparation.fitted([part.tensors[0] for part in data.domains.values()])
    assert len(fitted.notes) == 2
    assert "column 'constant' is constant in the sources' training splits" in fitted.notes[0]
    assert "column 'empty' is all missing" in fitted.notes[1]
