"""Tables with a column of text: as weighted words, or as vectors of a frozen model."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from domaingrad.bench.models.pretrained import (
    HF,
    BackboneError,
    directory_digest,
    hf_model,
    optional,
)
from domaingrad.bench.schema import Option, settings

from .data import (
    AS_USUAL,
    GROUP,
    DataError,
    DomainData,
    News,
    Preparation,
    Reader,
    ReaderOptions,
    Reading,
)
from .embeddings import Embeddings
from .files import listed
from .recipes import for_embeddings
from .table import Table, TableOptions, read_table
from .table_file import open_table
from .table_rows import names_of_rows
from .vectors import FORMAT, kept, stand_ins

WORDS = "tf-idf"
STATIC = "wordllama"
WORD = re.compile(r"\b\w\w+\b")
MOST_TERMS = 5000
"""Words that count: those in most rows of the sources' training splits, in two at least."""
LONGEST = 512
"""Different words of a text that are kept, the most frequent ones."""
COUNTED = 8
"""Bits of a stored number that hold how often a word is there."""
NORM = 0.3
"""Of a text's weights, over the root of their number."""
AT_ONCE = 16
"""Texts that pass through a model of transformers together."""


@dataclass(frozen=True)
class Words(Preparation):
    """TF-IDF: (1 + ln count) · (ln((1 + n) / (1 + rows with the word)) + 1), of norm 0.3 √terms.

    scikit-learn's, sublinear and smooth, but for the norm, which suits the learning rate of other
    kinds of data (chosen by source validation on reviews). Words and rows are those of the sources'
    training splits.

    Stored is, of each different word of a text, its CRC-32 and count in one number, −1 where there
    are no more; so a vocabulary is needed nowhere, and what a domain held out says decides nothing.
    """

    kind: ClassVar[str] = "words"

    column: str
    terms: tuple[int, ...] = ()
    """CRC-32 of the words that count, in order."""
    weights: tuple[float, ...] = ()
    """Their inverse frequencies, as above."""

    @property
    def shape(self) -> tuple[int, ...]:
        """A number for each word that counts."""
        return (len(self.terms),)

    def fitted(self, stored: Sequence[Tensor]) -> Words:
        """With words and frequencies of the sources' training splits.

        Raises:
            DataError: no word is in two texts.
        """
        found = [(rows >> COUNTED)[rows >= 0] for rows in stored]
        terms, rows = torch.unique(torch.cat(found), return_counts=True)
        order = torch.sort(rows, descending=True, stable=True).indices[:MOST_TERMS]
        chosen = order[rows[order] > 1].sort().values
        if not len(chosen):
            raise DataError(f"no word of column {self.column!r} is in two texts of the sources.")
        count = sum(map(len, stored))
        weights = ((1 + count) / (1 + rows[chosen].double())).log() + 1
        return replace(self, terms=tuple(terms[chosen].tolist()), weights=tuple(weights.tolist()))

    def __call__(self, stored: Tensor) -> Tensor:
        """Rows [n, words] as float32 [n, terms]."""
        terms, weights = (each.to(stored.device) for each in self._estimates)
        words, counts = stored >> COUNTED, (stored & (2**COUNTED - 1)).float()
        place = torch.searchsorted(terms, words).clamp_max(len(terms) - 1)
        values = torch.where(terms[place] == words, (1 + counts.log()) * weights[place], 0)
        dense = values.new_zeros(len(stored), len(terms)).scatter_add_(1, place, values)
        norm = dense.norm(dim=1, keepdim=True).clamp_min(1e-12)
        normed: Tensor = dense * (NORM * len(terms) ** 0.5 / norm)
        return normed

    def read(self, paths: Sequence[Path], reading: Reading = AS_USUAL) -> tuple[list[str], Tensor]:
        """The texts of CSV files, called ``FILE:LINE``, or by a column."""
        names, texts = _read(paths, self.column, reading)
        return names, counted(texts)

    def adopted(self, other: Preparation, stored: Tensor) -> Tensor:
        """Other texts are stored alike."""
        return stored if isinstance(other, Words) else super().adopted(other, stored)

    @cached_property
    def _estimates(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.terms), torch.tensor(self.weights)


@dataclass(frozen=True)
class TextEmbeddings(Embeddings):
    """Vectors of texts by a frozen model, standardised."""

    kind: ClassVar[str] = "text embeddings"

    column: str = ""
    by: str = STATIC
    digest: str = ""
    """Hash of the model's files."""

    def read(self, paths: Sequence[Path], reading: Reading = AS_USUAL) -> tuple[list[str], Tensor]:
        """The texts of CSV files, called ``FILE:LINE``, or by a column.

        Raises:
            BackboneError: the model is not there, or another one.
        """
        if _digest_of(self.by) != self.digest:
            raise BackboneError(f"{self.by} is another model than the run was trained with.")
        names, texts = _read(paths, self.column, reading)
        return names, embedded_texts(self.by, texts)

    def adopted(self, other: Preparation, stored: Tensor) -> Tensor:
        """Vectors of the same model.

        Raises:
            DataError: others.
        """
        if isinstance(other, TextEmbeddings) and other.digest != self.digest:
            raise DataError(
                f"the model takes vectors of {self.by} ({self.digest}); these are of {other.by} "
                f"({other.digest})."
            )
        return super().adopted(other, stored)


def counted(texts: Sequence[str]) -> Tensor:
    """What :class:`Words` stores of texts, int64 [n, most words]."""
    rows = [Counter(WORD.findall(text.lower())).most_common(LONGEST) for text in texts]
    stored = np.full((len(rows), max([1, *map(len, rows)])), -1, np.int64)
    most = 2**COUNTED - 1
    for at, row in enumerate(rows):
        stored[at, : len(row)] = [
            crc32(word.encode()) << COUNTED | min(count, most) for word, count in row
        ]
    return torch.from_numpy(stored)


@torch.no_grad()
def embedded_texts(by: str, texts: Sequence[str]) -> Tensor:
    """Vectors of texts: of ``wordllama`` the mean of its words', of a model that of its states.

    Zero of a text without a word, of which the package makes NaN.

    Raises:
        BackboneError: no such model.
    """
    if by == STATIC:
        with np.errstate(invalid="ignore"):
            found: Any = _static().embed(list(texts), norm=True)
        return torch.from_numpy(np.nan_to_num(np.asarray(found, np.float32)))
    model, tokenizer = _transformer(by.removeprefix(HF))
    most = min(512, tokenizer.model_max_length)
    pieces = []
    for at in range(0, len(texts), AT_ONCE):
        tokens = tokenizer(
            list(texts[at : at + AT_ONCE]), padding=True, truncation=True, max_length=most,
            return_tensors="pt",
        )  # fmt: skip
        states = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][:, :, None]
        pieces.append((states * mask).sum(1) / mask.sum(1))
    return torch.cat(pieces).float()


@lru_cache(maxsize=1)
def _static() -> Any:
    package = optional("wordllama", f"text by {STATIC}", "text")
    # Its own place as the cache, since version 0.4 looks for its tokenizer under another name.
    place = Path(package.__file__).parent
    return package.WordLlama.load(cache_dir=place, disable_download=True)


@lru_cache(maxsize=1)
def _transformer(directory: str) -> tuple[Any, Any]:
    model, place = hf_model(directory)
    tokenizers = optional("transformers", f"{HF}{directory}", "hf").AutoTokenizer
    return model.eval(), tokenizers.from_pretrained(str(place), local_files_only=True)


def _digest_of(by: str) -> str:
    if by == STATIC:
        _static()
        return version(STATIC)
    return directory_digest(Path(by.removeprefix(HF)).expanduser())


@settings
class TextOptions(ReaderOptions):
    """What the reader of texts may be told."""

    text: Annotated[str | None, Option("Text: the column of texts.")] = None
    text_by: Annotated[
        str, Option("Text: tf-idf, wordllama, or hf:DIR (a model of transformers).")
    ] = WORDS
    target: Annotated[str | None, Option("Text: the column to predict.")] = None
    domain: Annotated[str | None, Option("Text: the column of domains.")] = None
    group: Annotated[str | None, GROUP] = None
    task: Annotated[
        Literal["classification", "regression"] | None, Option("Text: classes, or a number.")
    ] = None


def read_texts(path: Path, options: TextOptions, news: News) -> DomainData:
    """A table of which one column, a text, is what is predicted from; others are left out.

    Args:
        path: the table.
        options: ``text``, ``target`` and ``domain`` name columns and are required.
        news: hears of embedding.

    Raises:
        DataError: as of tables; no such column, or another way than ``tf-idf``, ``wordllama`` or
            ``hf:DIR``.
        BackboneError: the model is not there.
    """
    by, file = options.text_by, open_table(path)
    if options.text is None or not (by in (WORDS, STATIC) or by.startswith(HF)):
        raise DataError(
            f"{path}: expected the column of texts (text), of {listed(file.named)}, and text_by as "
            f"{WORDS}, {STATIC} or {HF}DIR; found {options.text} and {by}."
        )
    file.check_columns([options.text])
    used = (options.text, options.target, options.domain, options.group)
    table = read_table(
        path,
        TableOptions(
            least=options.least, target=options.target, domain=options.domain, group=options.group,
            task=options.task, categorical=(options.text,), keep=(options.text,),
            drop=tuple(name for name in file.named if name not in used),
        ),
        news,
    )  # fmt: skip
    # The table has a text as its place among all texts.
    assert isinstance(table.preparation, Table)
    ((_, texts),) = table.preparation.categorical
    of_domain = {
        name: [
            "" if math.isnan(place) else texts[int(place)] for place in places.flatten().tolist()
        ]
        for name, domain in table.domains.items()
        for places in [domain.tensors[0]]
    }
    preparation: Preparation
    if by == WORDS:
        every = counted([text for own in of_domain.values() for text in own])
        preparation = Words(options.text)
        key: list[object] = [WORDS]
    else:
        digest = _digest_of(by)
        key = [FORMAT, by.partition(":")[0], digest]
        lines = [text for own in of_domain.values() for text in own]
        if options.counted:
            every = stand_ins(embedded_texts(by, lines[:1]), len(lines))
        else:
            every = kept(
                [*key, sha256(json.dumps(lines).encode()).hexdigest()],
                lines,
                partial(embedded_texts, by),
                news,
                lambda done: news.advance("embedding texts", done, len(lines)),
            )
        preparation = TextEmbeddings(every.shape[1], column=options.text, by=by, digest=digest)
    sizes = [len(own) for own in of_domain.values()]
    labels = [domain.tensors[1] for domain in table.domains.values()]
    pieces = zip(of_domain, torch.split(every, sizes), labels, strict=True)
    return replace(
        table,
        domains={name: TensorDataset(inputs, own) for name, inputs, own in pieces},
        preparation=preparation,
        recipe=for_embeddings(sum(sizes), len(sizes), "linear" if by == WORDS else "mlp"),
        notes=tuple(note for note in table.notes if repr(options.text) not in note),
        fingerprint=sha256(json.dumps([table.fingerprint, key]).encode()).hexdigest(),
    )


def _read(paths: Sequence[Path], column: str, reading: Reading) -> tuple[list[str], list[str]]:
    """Names and texts of the rows of tables."""
    names, texts = [], []
    for path in paths:
        file = open_table(path)
        file.check_columns([column])
        if reading.name is not None:
            file.check_columns([reading.name])
        names += names_of_rows(path, file, reading.name)
        texts += file.values([column], {column}, ())[column].fillna("").tolist()
    return names, texts


TEXT = Reader(
    kind="text",
    summary="A CSV file with a row per sample, of which one column is a text to predict from.",
    read=read_texts,
    options=TextOptions,
)
