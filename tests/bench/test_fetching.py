"""Inputs fetched as needed: the numbers of those in memory, whoever fetches them, after a kill."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from domaingrad import bench
from domaingrad.bench.domains import DataError, News, from_datasets, load
from domaingrad.bench.domains.fetched import FetchedSamples
from domaingrad.bench.protocol import Split
from domaingrad.bench.runs.feeding import Feed
from domaingrad.bench.runs.resumable import begin
from domaingrad.bench.runs.settings import TrainConfig, deciding
from domaingrad.bench.runs.training import train

from .test_training import assert_same, cut_off, outcome


class Slow(Dataset):
    """Samples that are made when they are asked for."""

    def __init__(self, site, count=40):
        self.site, self.count, self.asked = site, count, []

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        if row >= self.count:
            raise IndexError
        self.asked.append(row)
        pixels = torch.randint(256, (3, 12, 12), generator=torch.Generator().manual_seed(row))
        return (pixels + 7 * self.site).clamp(0, 255).to(torch.uint8), row % 2


def sites():
    return {f"site-{k}": Slow(k) for k in range(3)}


def data(fetch):
    return from_datasets(sites(), "sites", fetch=fetch)


CONFIG = TrainConfig(
    "sites", "site-2", backbone="mnist-cnn", steps=8, batch=4, checkpoints=4, accelerator="cpu"
)


@pytest.mark.parametrize("workers", [0, 2])
def test_numbers_are_those_of_inputs_in_memory_also_after_a_kill(tmp_path, workers):
    kept = outcome(train(CONFIG, tmp_path / "kept", data=data("once")))
    config = replace(CONFIG, workers=workers)
    fetched = data("as-needed")
    assert_same(outcome(train(config, tmp_path / "fetched", data=fetched)), kept)
    cut_off(config, tmp_path / "cut", 5, data=fetched)
    # By another number of workers, since that decides nothing.
    again = replace(CONFIG, workers=2 - workers)
    assert_same(outcome(train(again, tmp_path / "cut", data=data("as-needed"))), kept)


def test_a_step_asks_for_its_own_inputs_alone():
    given = sites()
    fetched = from_datasets(given, "sites", fetch="as-needed")
    assert all(isinstance(each, FetchedSamples) for each in fetched.domains.values())
    for each in given.values():
        assert each.asked[:40] == list(range(40))  # once through, for labels and fingerprint
        each.asked.clear()
    trainer = begin(CONFIG, fetched).trainer
    trainer.step()
    assert [len(each.asked) for each in given.values()] == [4, 4, 0]


def test_what_is_drawn_ahead_counts_as_not_drawn():
    x, y = torch.arange(50.0), torch.zeros(50)
    inputs = from_datasets({"a": TensorDataset(x[:, None], y), "b": TensorDataset(x[:, None], y)},
                           "x", fetch="as-needed").domains["a"]  # fmt: skip
    splits = {"a": Split(inputs, torch.arange(40), torch.arange(40, 50))}

    def feed(workers):
        generator = torch.Generator().manual_seed(3)
        return Feed(splits, 6, generator, {"a": slice(None)}, workers)

    plain, ahead = feed(0), feed(1)
    for _ in range(5):
        assert torch.equal(plain.get_state(), ahead.get_state())
        one, other = plain.take(), ahead.take()
        assert torch.equal(one["a"][0], other["a"][0])
        assert set(one["a"][0][:, 0].tolist()) <= set(range(40))
    state, following = ahead.get_state(), ahead.take()
    ahead.set_state(state)
    assert torch.equal(ahead.take()["a"][0], following["a"][0])


def test_the_number_of_workers_decides_nothing():
    assert deciding({"workers": 3}) == {}
    assert replace(CONFIG, workers=3) == CONFIG


def test_bad_samples_are_told_when_they_are_passed():
    class Odd(Slow):
        def __getitem__(self, row):
            x, y = super().__getitem__(row)
            return (x[:, :8] if row == 30 else x), y

    with pytest.raises(DataError, match="all tensors of one shape"):
        from_datasets({"a": Odd(0), "b": Slow(1)}, "x", fetch="as-needed")
    with pytest.raises(DataError, match="no samples"):
        from_datasets({"a": Slow(0, count=0), "b": Slow(1)}, "x", fetch="as-needed")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DOMAINGRAD_CACHE", str(tmp_path / "cache"))
    generator = torch.Generator().manual_seed(0)
    for site in "abc":
        for kind in ("cat", "dog"):
            for number in range(4):
                path = tmp_path / "pictures" / site / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = torch.randint(256, (14, 18, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(path)
    return tmp_path / "pictures"


@pytest.mark.slow
def test_images_of_a_folder_are_decoded_as_needed_to_the_same_numbers(folder, tmp_path):
    settings = {"backbone": "mnist-cnn", "steps": 4, "batch": 2, "checkpoints": 2,
                "accelerator": "cpu"}  # fmt: skip
    found = {}
    for fetch in ("once", "as-needed"):
        options = {"size": 12, "fetch": fetch}
        result = bench.train(
            str(folder), tmp_path / fetch, hold_out="c", data_options=options, **settings
        )
        found[fetch] = outcome(result)
        assert (tmp_path / "cache" / "images").exists()
        told = bench.evaluate(tmp_path / fetch).domains[-1].metrics["accuracy"]
        found[fetch] = (*found[fetch], told)
    assert_same(found["once"], found["as-needed"])
    assert found["once"][3] == found["as-needed"][3]


def test_as_needed_nothing_is_cached_and_a_changed_file_is_other_data(folder, tmp_path):
    def read(**options):
        given = {"size": 12, "fetch": "as-needed", **options}
        return load(str(folder), given, News(), torch.Generator())

    before = read()
    assert not (tmp_path / "cache").exists()
    assert read().fingerprint == before.fingerprint
    path = folder / "a" / "cat" / "0.png"
    Image.new("RGB", (9, 9)).save(path)
    assert read().fingerprint != before.fingerprint
    with pytest.raises(DataError, match="cannot be left out"):
        read(skip_unreadable=True)
    path.write_text("no image")
    with pytest.raises(DataError, match=r"0\.png cannot be decoded"):
        read().domains["a"].tensors[0][torch.arange(8)]
