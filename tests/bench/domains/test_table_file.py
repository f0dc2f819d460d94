"""Tables as people have them: separators, encodings, dates, identifiers, large numbers."""

import gzip

import numpy as np
import pandas as pd
import pytest
import torch

from domaingrad.bench.domains.data import DataError, News, Reading
from domaingrad.bench.domains.loading import reader_of
from domaingrad.bench.domains.table import TABLE, TableOptions

FRAME = pd.DataFrame(
    {
        "Stadt": ["Köln", "Köln", "Köln", "Zürich", "Zürich", "Zürich"],
        "Höhe": [1.5, np.nan, 2.25, 1000.5, 1.0, 3.0],
        "Wert": [0.5, 1.5, 2.5, 0.25, 1.25, 2.75],
    }
)


def read(path, target="Wert", domain="Stadt", **options):
    return TABLE.read(path, TableOptions(target=target, domain=domain, **options), News())


def write(path, separator=",", decimal=".", encoding="utf-8", packed=False):
    text = FRAME.to_csv(index=False, sep=separator, decimal=decimal).encode(encoding)
    path.write_bytes(gzip.compress(text) if packed else text)
    return path


@pytest.mark.parametrize(
    ("name", "written", "said"),
    [
        ("t.csv", {}, None),
        ("t.tsv", {"separator": "\t"}, "separated by tab"),
        ("t.tsv.gz", {"separator": "\t", "packed": True}, "separated by tab"),
        ("t.csv", {"separator": ";"}, "separated by semicolon"),
        ("t.csv", {"separator": ";", "decimal": ","}, "semicolon .*, with decimal commas"),
        ("t.txt", {"separator": "|", "encoding": "latin-1"}, "bar .*, in the encoding cp1252"),
        ("t.csv", {"encoding": "utf-16"}, "in the encoding utf-16"),
        ("t.csv", {"encoding": "utf-16-le"}, "in the encoding utf-16-le"),
        ("t.csv", {"encoding": "utf-8-sig"}, None),
    ],
)
def test_how_a_table_is_written_is_found_out_and_told(tmp_path, name, written, said):
    data = read(write(tmp_path / name, **written))
    assert data.name == "t"
    assert list(data.domains) == ["Köln", "Zürich"]
    np.testing.assert_array_equal(data.domains["Zürich"].tensors[0], [[1000.5], [1.0], [3.0]])
    assert data.domains["Köln"].tensors[1].tolist() == [0.5, 1.5, 2.5]
    notes = [note for note in data.notes if "is read" in note]
    assert len(notes) == (said is not None)
    if said:
        assert pd.Series(notes).str.contains(said, regex=True).all(), notes
    assert reader_of(str(tmp_path / name))[0] is TABLE


def test_what_is_told_of_the_writing_goes_before(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("d;x,y;z,a\nł;1,5;7,2\nb;2,5;8,1\n".encode("cp1250"))
    data = read(path, "a", "d;x", separator="comma", encoding="cp1250", categorical=("y;z",))
    assert list(data.domains) == ["b;2", "ł;1"]
    assert not any("is read" in note for note in data.notes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"separator": ";;"}, "one character or comma"),
        ({"encoding": "klingon"}, "encoding klingon"),
        ({"encoding": "utf-8"}, "should be text in the encoding utf-8 and is not"),
    ],
)
def test_a_writing_that_cannot_be_is_refused(tmp_path, options, said):
    with pytest.raises(DataError, match=said):
        read(write(tmp_path / "t.csv", encoding="latin-1"), **options)


def test_marks_between_thousands_are_no_texts(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('d,x,y\na,"1,234",a\na,"12,000.5",b\nb,7,a\nb,8,b\n')
    x = torch.cat([domain.tensors[0] for domain in read(path, "y", "d").domains.values()])
    assert x.flatten().tolist() == [1234, 12000.5, 7, 8]
    path.write_text("d;x;y\na;1.234,5;a\na;12.000,25;b\nb;7,5;a\nb;8,5;b\n")
    x = torch.cat([domain.tensors[0] for domain in read(path, "y", "d").domains.values()])
    assert x.flatten().tolist() == [1234.5, 12000.25, 7.5, 8.5]


@pytest.mark.parametrize(("suffix", "library"), [(".parquet", "pyarrow"), (".xlsx", "openpyxl")])
def test_parquet_and_excel_are_the_same_table(tmp_path, suffix, library):
    pytest.importorskip(library)
    frame = FRAME.assign(when=pd.date_range("2020-01-01", periods=6, freq="7h"))
    kind = suffix.removeprefix(".").replace("xlsx", "excel")
    getattr(frame, f"to_{kind}")(tmp_path / f"t{suffix}", index=False)
    frame.to_csv(tmp_path / "t.csv", index=False)
    ours, theirs = (read(tmp_path / f"t{end}") for end in (suffix, ".csv"))
    assert ours.preparation.numeric == theirs.preparation.numeric
    for name, domain in ours.domains.items():
        for one, other in zip(domain.tensors, theirs.domains[name].tensors, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("suffix", [".parquet", ".xlsx"])
def test_a_file_that_is_no_parquet_or_excel_says_so_or_what_it_takes(tmp_path, suffix):
    (tmp_path / f"t{suffix}").write_bytes(b"no such file")
    with pytest.raises(DataError, match=r"which is not installed; .*tables|cannot be read"):
        read(tmp_path / f"t{suffix}")


def stations(tmp_path, forms="%Y-%m-%d %H:%M:%S"):
    """Hours of two stations, numbered through, with an identifier and a remark."""
    hours = pd.date_range("2019-12-30", periods=60, freq="7h")
    frame = pd.DataFrame(
        {
            "No": [*range(1, 61), *range(1, 61)],
            "when": [*hours.strftime(forms)] * 2,
            "account_id": [10_000_000_000 + 7 * i for i in range(120)],
            "remark": [f"text {i}" for i in range(120)],
            "stamp": [1_577_664_000 + 25_200 * i for i in range(60)] * 2,
            "wd": ["N", "S", "E"] * 40,
            "station": ["north"] * 60 + ["south"] * 60,
            "pm": [float(i % 7) + 0.5 for i in range(120)],
        }
    )
    frame.to_csv(tmp_path / "air.csv", index=False)
    return tmp_path / "air.csv", frame, hours


@pytest.mark.parametrize("forms", ["%Y-%m-%d %H:%M:%S", "%d.%m.%Y %H:%M", "%m/%d/%Y %I:%M %p"])
def test_dates_become_numbers_of_the_calendar(tmp_path, forms):
    path, _, hours = stations(tmp_path, forms)
    data = read(path, "pm", "station")
    table = data.preparation
    x = data.domains["north"].tensors[0].numpy()
    column = {name: x[:, place] for place, name in enumerate(table.numeric)}
    np.testing.assert_array_equal(column["when: year"], hours.year)
    np.testing.assert_array_equal(column["when: month"], hours.month)
    np.testing.assert_array_equal(column["when: weekday"], hours.day_of_week)
    np.testing.assert_array_equal(column["when: hour"], hours.hour)
    turn = 2 * np.pi * hours.hour / 24
    np.testing.assert_allclose(column["when: sine of day"], np.sin(turn), atol=1e-12)
    days = (hours.day_of_year - 1 + hours.hour / 24) / 365.25
    np.testing.assert_allclose(column["when: cosine of year"], np.cos(2 * np.pi * days), atol=1e-12)
    assert [name for name, _ in table.categorical] == ["wd"]
    assert any("'when' holds dates" in note for note in data.notes)
    without = read(path, "pm", "station", dates="drop")
    assert "stamp" in without.preparation.numeric
    assert not any(name.startswith("when") for name in without.preparation.numeric)
    assert any("'when' holds dates and is left out; keep" in note for note in without.notes)


def test_dates_of_new_files_are_read_as_in_training(tmp_path):
    path, frame, _ = stations(tmp_path, "%d/%m/%Y %H:%M")
    data = read(path, "pm", "station")
    table = data.preparation.fitted([data.domains["north"].tensors[0]])
    frame.iloc[::-1].drop(columns=["pm", "station"]).to_csv(tmp_path / "new.csv", index=False)
    _, stored = table.read([tmp_path / "new.csv"])
    theirs = torch.cat([each.tensors[0] for each in data.domains.values()]).flip(0)
    assert torch.equal(table(stored), table(theirs))
    frame.assign(when="2020-01-01").to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(DataError, match="'when' should be dates as '%d/%m/%Y %H:%M' and has"):
        table.read([tmp_path / "new.csv"])


@pytest.mark.parametrize("day_first", [None, True, False])
def test_the_order_of_day_and_month_is_told_where_both_can_be(tmp_path, day_first):
    path = tmp_path / "t.csv"
    rows = "".join(f"{'ab'[i % 2]},0{i + 1}/03/2020,{i},{'yn'[i % 2]}\n" for i in range(8))
    path.write_text("d,when,x,y\n" + rows)
    data = read(path, "y", "d", day_first=day_first)
    month = data.preparation.numeric.index("when: month")
    months = torch.cat([domain.tensors[0][:, month] for domain in data.domains.values()])
    assert {*months.tolist()} == ({*range(1, 9)} if day_first is False else {3})
    said = any("day-first or month-first tells otherwise" in note for note in data.notes)
    assert said == (day_first is None)


def test_counts_of_rows_identifiers_and_texts_are_named_and_left_out_unless_asked_for(tmp_path):
    path, _, _ = stations(tmp_path)
    data = read(path, "pm", "station")
    said = "\n".join(data.notes)
    assert "column 'No' counts the rows and is left out; keep uses it" in said
    assert "column 'account_id' looks like an identifier and is left out" in said
    assert "column 'remark' has 120 different texts in 120 rows and is left out" in said
    assert "stamp" in data.preparation.numeric
    kept = read(path, "pm", "station", keep=("No", "account_id"), categorical=("remark",))
    assert {"No", "account_id"} <= {*kept.preparation.numeric}
    assert "remark" in dict(kept.preparation.categorical)
    assert not any("left out" in note for note in kept.notes)


@pytest.mark.parametrize(
    ("column", "counts"),
    [
        ([*range(40)], True),
        ([*range(1, 41)], True),
        ([*range(20)] * 2, True),
        ([*reversed(range(40))], True),
        ([i for i in range(48) if i % 6], True),
        ([*range(1990, 2030)], False),
        ([i * i for i in range(40)], False),
        ([i % 25 for i in range(40)], False),
    ],
)
def test_a_count_of_rows_is_told_from_other_whole_numbers(tmp_path, column, counts):
    rows = "".join(f"{'ab'[i // 20]},{x},{i % 3}.5,{'yn'[i % 2]}\n" for i, x in enumerate(column))
    (tmp_path / "t.csv").write_text("d,x,z,y\n" + rows)
    assert ("x" not in read(tmp_path / "t.csv", "y", "d").preparation.numeric) == counts


def test_large_numbers_keep_their_digits(tmp_path):
    """Seconds since 1970 and targets near 1e9, in which float32 steps by 64 to 128."""
    seconds, target = 1_700_000_000 + np.arange(40) ** 2 % 31, 1e9 + np.arange(40) * 0.25
    rows = "".join(
        f"{'ab'[i % 2]},{s},{y}\n" for i, (s, y) in enumerate(zip(seconds, target, strict=True))
    )
    (tmp_path / "t.csv").write_text("d,t,y\n" + rows)
    data = read(tmp_path / "t.csv", "y", "d")
    table = data.preparation.fitted([domain.tensors[0] for domain in data.domains.values()])
    assert table.left_out == ()
    ours = table(data.domains["a"].tensors[0]).flatten()
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours, ((seconds - seconds.mean()) / seconds.std())[::2], rtol=1e-5)
    np.testing.assert_array_equal(data.domains["b"].tensors[1], target[1::2])


def test_lines_are_those_of_the_file_and_a_column_may_name_the_rows(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("d,x,y\na,1,u\na,2,v\nb,3,u\nb,4,v\n")
    table = read(path, "y", "d").preparation.fitted([torch.tensor([[1.0], [2.0]])])
    new = tmp_path / "new.csv"
    new.write_text('who,x\n\nann,1\n"bob\nsmith",2\n,3\n')
    assert table.read([new])[0] == [f"{new}:{line}" for line in (3, 4, 6)]
    named, _ = table.read([new], Reading(name="who"))
    assert named == ["ann", "bob\nsmith", f"{new}:6"]
    with pytest.raises(DataError, match="no column 'whom'; did you mean 'who'"):
        table.read([new], Reading(name="whom"))


def test_unseen_texts_and_empty_columns_of_new_files_are_told(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("d,x,c,y\na,1,red,u\na,2,blue,v\nb,3,green,u\nb,4,red,v\n")
    data = read(path, "y", "d")
    table = data.preparation.fitted([data.domains["a"].tensors[0]])
    new, said = tmp_path / "new.csv", []
    new.write_text("x,c\n,green\n,red\n,pink\n,\n")
    table.read([new], Reading(news=News(say=said.append)))
    assert any("'x'" in line and "is empty" in line for line in said)
    assert any("'c'" in line and "in 2 of 4 rows" in line for line in said)
    assert len(said) == 2
