"""Texts: as scikit-learn weighs their words, and as the packages' own models embed them."""

import json
import sys
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch

from domaingrad import bench
from domaingrad.bench.domains import DataError, News, load, preparation_from, texts
from domaingrad.bench.domains.texts import counted
from domaingrad.bench.models import BackboneError

GOOD = ("a wonderful film film film", "wonderful actors and a fine plot", "fine work, not boring")
BAD = ("a boring film", "boring actors and no plot", "dull, dull work. 3 hours!")
QUICK = {"accelerator": "cpu", "steps": 150, "checkpoints": 1, "batch": 8}


@pytest.fixture
def reviews(tmp_path):
    rows = [
        f'{site},{label},"{text}",{site}{label}'
        for site in ("books", "films", "music")
        for label, lines in (("good", GOOD), ("bad", BAD))
        for text in lines * 4
    ]
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(["site,label,text,other", *rows]))
    return path


def read(path, **options):
    told = {"text": "text", "target": "label", "domain": "site"} | options
    return load(f"text:{path}", told, News(), torch.Generator())


def test_words_weigh_what_scikit_learn_says():
    from sklearn.feature_extraction.text import TfidfVectorizer

    lines = [*GOOD, *BAD, "boring boring film film film"]
    theirs = TfidfVectorizer(sublinear_tf=True, min_df=2)
    expected = theirs.fit_transform(lines).toarray()
    words = theirs.get_feature_names_out()
    ours = preparation_from({"kind": "words", "column": "text"}).fitted([counted(lines)])
    assert sorted(ours.terms) == sorted(crc32(word.encode()) for word in words)
    order = [ours.terms.index(crc32(word.encode())) for word in words]
    found = ours(counted(lines))[:, order].numpy()
    np.testing.assert_allclose(found, expected * 0.3 * len(words) ** 0.5, rtol=1e-5)
    assert preparation_from(json.loads(json.dumps(ours.described()))) == ours
    with pytest.raises(DataError, match="no word of column 'text' is in two texts"):
        ours.fitted([counted(["one thing", "another matter"])])


def test_what_a_domain_held_out_says_decides_nothing(reviews):
    data = read(reviews)
    own = data.domains["books"].tensors[0]
    other = torch.cat([own, counted(["unheard words " * 3] * 5).new_full((5, own.shape[1]), -1)])
    fitted = data.preparation.fitted([own])
    assert fitted.terms == data.preparation.fitted([other]).terms
    assert crc32(b"unheard") not in fitted.terms
    assert torch.equal(fitted(counted(["quite unheard of"])), torch.zeros(1, len(fitted.terms)))


def test_a_column_of_texts_is_trained_on_and_new_ones_are_judged(reviews, tmp_path):
    options = {"text": "text", "target": "label", "domain": "site"}
    result = bench.train(
        f"text:{reviews}", tmp_path / "run", hold_out="music", data_options=options,
        learning_rate=1e-2, **QUICK,
    )  # fmt: skip
    assert result.held_out.score == 1.0
    new = tmp_path / "new.csv"
    new.write_text("text\nwonderful fine\nboring dull\n")
    assert bench.predict(tmp_path / "run", [new]).labels == ["good", "bad"]
    told = bench.evaluate(tmp_path / "run", f"text:{reviews}")
    assert all(each.metrics["accuracy"] == 1 for each in told.domains if each.role == "new data")


def test_a_text_is_kept_with_its_domain_and_label(reviews):
    data = read(reviews)
    assert data.classes == ("bad", "good")
    for domain in data.domains.values():
        inputs, labels = domain.tensors
        expected = [*GOOD * 4, *BAD * 4]
        padded = counted(expected)
        assert torch.equal(inputs[:, : padded.shape[1]], padded)
        assert labels.tolist() == [1] * 12 + [0] * 12


def test_static_vectors_are_the_packages(reviews, tmp_path, monkeypatch):
    wordllama = pytest.importorskip("wordllama", reason="pip install 'domaingrad[text]'")
    monkeypatch.setenv("DOMAINGRAD_CACHE", str(tmp_path / "cache"))
    data = read(reviews, text_by="wordllama")
    place = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(cache_dir=place, disable_download=True)
    expected = model.embed([GOOD[1]], norm=True)
    np.testing.assert_allclose(data.domains["films"].tensors[0][1], expected[0], atol=1e-6)
    assert data.preparation.shape == (256,)
    nothing, something = texts.embedded_texts("wordllama", ["", "film"])
    assert torch.equal(nothing, torch.zeros(256))
    assert something.norm() == pytest.approx(1, abs=1e-4)
    options = {"text": "text", "target": "label", "domain": "site", "text_by": "wordllama"}
    bench.train(
        f"text:{reviews}", tmp_path / "run", hold_out="music", data_options=options, **QUICK
    )
    new = tmp_path / "new.csv"
    new.write_text("text\na wonderful film\nit was boring\n")
    assert bench.predict(tmp_path / "run", [new]).labels == ["good", "bad"]


def test_a_model_of_transformers_gives_the_mean_of_its_states(reviews, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="pip install 'domaingrad[hf]'")
    monkeypatch.setenv("DOMAINGRAD_CACHE", str(tmp_path / "cache"))
    words = sorted({word.strip(",.!") for text in (*GOOD, *BAD) for word in text.split()})
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]))
    tokenizer = transformers.BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt"))
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8,
    )  # fmt: skip
    model = transformers.BertModel(config).eval()
    model.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    data = read(reviews, text_by=f"hf:{tmp_path / 'bert'}")
    with torch.no_grad():
        expected = model(**tokenizer(GOOD[2], return_tensors="pt")).last_hidden_state[0].mean(0)
    torch.testing.assert_close(data.domains["books"].tensors[0][2], expected, rtol=1e-4, atol=1e-5)


def test_what_is_not_told_or_not_there_is_said(reviews, monkeypatch):
    with pytest.raises(DataError, match=r"the column of texts \(text\), of site, label, text"):
        read(reviews, text=None)
    with pytest.raises(DataError, match=r"tf-idf, wordllama or hf:DIR; found text and magic"):
        read(reviews, text_by="magic")
    texts._static.cache_clear()
    monkeypatch.setitem(sys.modules, "wordllama", None)
    with pytest.raises(BackboneError, match=r"pip install 'domaingrad\[text\]'"):
        read(reviews, text_by="wordllama")
