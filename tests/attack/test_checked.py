"""Files with checksums: what is read is what was written, or is said to be damaged."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domaingrad.bench import checked
from domaingrad.bench.checked import DamagedError, Record

from .test_damage import damages, spoil

DOCUMENTS = st.lists(
    st.dictionaries(
        st.text(max_size=5), st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
        min_size=1,
    ),
    min_size=1, max_size=6,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(documents=DOCUMENTS, damage=damages())
def test_a_damaged_record_is_found_or_is_the_beginning_of_what_was_written(documents, damage):
    with tempfile.TemporaryDirectory() as root:
        record = Record(Path(root) / "run.jsonl")
        for document in documents:
            record.append(document)
        tail = record.tail
        assert Record(record.path).lines() == [*documents]
        spoil(record.path, damage)
        again = Record(record.path)
        try:
            found = again.lines()
        except DamagedError:
            return
        assert found == documents[: len(found)]
        assert (again.tail == tail) == (len(found) == len(documents))


@settings(max_examples=200, deadline=None)
@given(documents=DOCUMENTS, cut=st.integers(0, 200), more=DOCUMENTS)
def test_a_line_that_was_cut_short_is_forgotten_by_the_next_one(documents, cut, more):
    with tempfile.TemporaryDirectory() as root:
        record = Record(Path(root) / "run.jsonl")
        for document in documents:
            record.append(document)
        content = record.path.read_bytes()
        record.path.write_bytes(content[: max(0, len(content) - cut)])
        again = Record(record.path)
        there = again.lines()
        for document in more:
            again.append(document)
        assert Record(record.path).lines() == there + more


WRITERS = {
    "document": (
        lambda path: checked.write_document(path, {"a": [1, "é\udc80"], "b": {"c": 1.5}}),
        checked.read_document,
    ),
    "comment": (
        lambda path: path.write_text(checked.with_comment("a: 1\nb: é\n")),
        checked.require_comment,
    ),
    "header": (
        lambda path: path.write_bytes(checked.with_header(bytes(range(256)))),
        checked.without_header,
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
@settings(max_examples=300, deadline=None)
@given(damage=damages())
def test_a_damaged_file_is_found(kind, damage):
    write, read = WRITERS[kind]
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "file"
        write(path)
        before, told = path.read_bytes(), read(path)
        spoil(path, damage)
        if path.exists() and path.read_bytes() == before:
            assert read(path) == told
        else:
            with pytest.raises((DamagedError, FileNotFoundError)):
                read(path)


def test_a_record_is_plain_json(tmp_path):
    record = Record(tmp_path / "run.jsonl")
    record.append({"step": 1, "loss": 0.5})
    line = json.loads(record.path.read_text())
    assert line.pop("sum")
    assert line == {"step": 1, "loss": 0.5}
