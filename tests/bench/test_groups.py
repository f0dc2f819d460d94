"""Groups: never split, wherever they are named; batches over classes or groups; scores of each."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from domaingrad import bench
from domaingrad.bench.domains import DataError, News, from_datasets, load
from domaingrad.bench.protocol import draw, generator_of, trained_groups
from domaingrad.bench.runs.trainer import Splits
from domaingrad.bench.schema import SettingError

from ..cli.test_train import run

SMALL = {"steps": 20, "checkpoints": 2, "accelerator": "cpu"}


def people(shared=False, mixed=True):
    """Three sites with 20 people of 6 samples each, whose classes differ within a person."""
    generator = torch.Generator().manual_seed(0)
    domains, groups = {}, {}
    for site in range(3):
        x = torch.randn(120, 4, generator=generator)
        person = torch.arange(120) // 6
        y = (x[:, 0] > 0).long() if mixed else person % 2
        domains[f"site-{site}"] = TensorDataset(x, y)
        groups[f"site-{site}"] = [f"{'' if shared else site}p{int(p)}" for p in person]
    return from_datasets(domains, "people", groups=groups)


def sides(data, splits):
    """Groups in training and in validation, over all domains."""
    found = {"train": set(), "val": set()}
    for name, split in {**splits.sources, **splits.held_out}.items():
        names = data.groups[name].names
        for side, rows in (("train", split.train), ("val", split.val)):
            found[side] |= {names[g] for g in data.groups[name].of_sample[rows].tolist()}
    return found


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("trial", range(5))
def test_a_group_is_never_split_not_even_over_domains(shared, trial):
    data = people(shared)
    splits = Splits.of(data, ("site-2",), (0, "people", f"trial {trial}"))
    found = sides(data, splits)
    assert not found["train"] & found["val"]
    assert len(found["train"] | found["val"]) == (20 if shared else 60)
    for split in splits.sources.values():
        assert len(split.train) + len(split.val) == 120
        # 80 % of the groups of each of two classes.
        assert 0.7 <= len(split.train) / 120 <= 0.9


def test_as_many_groups_of_each_class_are_trained_on_as_eighty_percent_are():
    """By hand: of ten groups of class 0 and five of class 1, eight and four."""
    groups = torch.arange(15).repeat_interleave(3)
    labels = (groups >= 10).long()
    labels[::3] = 1 - labels[::3]  # one of three is of the other class, and does not count
    found = trained_groups(labels, groups, generator_of("x"))
    assert Counter((found >= 10).tolist()) == {False: 8, True: 4}
    numbers = trained_groups(torch.rand(45), groups, generator_of("x"))
    assert len(numbers) == 12
    assert len(trained_groups(labels[:3], groups[:3], generator_of("x"))) == 1


@pytest.mark.parametrize("balance", ["class", "group"])
@pytest.mark.parametrize("size", [3, 16, 17])
def test_batches_hold_as_many_of_each_class_or_group(balance, size):
    data = people()
    first = Splits.of(data, (), (0,), balance).sources["site-0"]
    of = data.groups["site-0"].of_sample if balance == "group" else first.data.tensors[1]
    rows = {tuple(x.tolist()): kind for x, kind in zip(first.data.tensors[0], of, strict=True)}
    kinds = 2 if balance == "class" else len(torch.unique(of[first.train]))
    generator, totals = torch.Generator().manual_seed(0), Counter()
    for _ in range(200):
        inputs, _ = draw(first, size, generator)
        counts = Counter(int(rows[tuple(x.tolist())]) for x in inputs)
        assert max(counts.values()) - min([*counts.values(), *[0] * (kinds - len(counts))]) <= 1
        totals += counts
    # No class or group is left to the end of the line where there are too few places.
    assert min(totals.values()) > 0.7 * max(totals.values())
    assert len(totals) == kinds
    firsts = {int(rows[tuple(draw(first, size, generator)[0][0].tolist())]) for _ in range(50)}
    assert len(firsts) > 1  # in no order of classes or groups


def test_a_run_balances_as_it_is_told_and_refuses_what_is_not_there(tmp_path):
    x = torch.randn(40, 3)
    plain = {name: TensorDataset(x, (x[:, 0] > 0).long()) for name in "abc"}
    with pytest.raises(DataError, match="cannot balance over each group"):
        bench.train(plain, tmp_path / "plain", hold_out="c", balance="group", **SMALL)
    numbers = {name: TensorDataset(x, x[:, 0]) for name in "abc"}
    with pytest.raises(DataError, match="cannot balance over each class"):
        bench.train(numbers, tmp_path / "numbers", hold_out="c", balance="class", **SMALL)
    with pytest.raises(SettingError, match="no balance 'clas'; did you mean 'class'"):
        bench.TrainConfig("spirals", None, balance="clas")
    groups = {name: [i // 4 for i in range(40)] for name in "abc"}
    result = bench.train(
        plain, tmp_path / "groups", hold_out="c", groups=groups, balance="group", **SMALL
    )
    assert result.config.balance == "group"
    assert any("10 of 10 groups of c, held out, are in the sources" in n for n in result.notes)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "patients.csv"
    rows = [f"s{i % 3},{i // 12},{(i * 37) % 80},{'yes' if (i * 37) % 80 > 40 else 'no'}"
            for i in range(240)]  # fmt: skip
    path.write_text("\n".join(["site,patient,age,ill", *rows, "s0,,50,yes"]))
    return path


def read(data, **options):
    return load(str(data), options, News(), torch.Generator())


def test_a_column_of_a_table_names_groups_and_is_no_feature(table):
    told = {"target": "ill", "domain": "site"}
    data = read(table, group="patient", **told)
    assert data.groups["s0"].names == tuple(map(str, range(20)))
    assert data.preparation.numeric == ("age",)
    assert any("1 rows without a target, domain or group" in note for note in data.notes)
    assert read(table, **told).fingerprint != data.fingerprint
    with pytest.raises(DataError, match="cannot be two of the target, the domain and the group"):
        read(table, group="site", **told)
    with pytest.raises(DataError, match="no column 'patent'; did you mean 'patient'"):
        read(table, group="patent", **told)


def pictures(root):
    for site in "ab":
        for kind in ("cat", "dog"):
            for number in range(4):
                path = root / site / kind / f"{site}p{number // 2}-{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (number, len(kind), ord(site))).save(path)
    return root


def test_a_pattern_names_the_groups_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DOMAINGRAD_CACHE", str(tmp_path / "cache"))
    root = pictures(tmp_path / "pictures")
    data = read(root, size=8, group=r"/(\w+)-\d+\.png$")
    assert data.groups["a"].names == ("ap0", "ap1")
    assert data.groups["a"].of_sample.tolist() == [0, 0, 1, 1] * 2
    assert read(root, size=8, group=r"ap\d|bp\d").groups["b"].names == ("bp0", "bp1")
    with pytest.raises(DataError, match=r"none in 8: .*bp0-0\.png"):
        read(root, size=8, group=r"ap\d")
    with pytest.raises(DataError, match="has to be a regular expression"):
        read(root, size=8, group="(")


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_a_column_names_the_groups_of_a_manifest(tmp_path, monkeypatch, suffix):
    monkeypatch.setenv("DOMAINGRAD_CACHE", str(tmp_path / "cache"))
    root = pictures(tmp_path / "pictures")
    rows = [
        {"path": str(p.relative_to(tmp_path)), "label": p.parent.name,
         "domain": p.parent.parent.name, "animal": p.stem.split("-")[0]}
        for p in sorted(root.rglob("*.png"))
    ]  # fmt: skip
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    path = tmp_path / f"list.{suffix}"
    path.write_text(json.dumps(rows) if suffix == "json" else "\n".join(lines))
    data = read(f"manifest:{path}", size=8, group="animal")
    assert data.groups["b"].names == ("bp0", "bp1")


def test_scores_of_each_group_are_told_when_asked(table, tmp_path):
    """Against the predictions of the model itself, patient by patient."""
    out = tmp_path / "run"
    done = run("train", "--data", table, "--target", "ill", "--domain", "site", "--group",
               "patient", "--hold-out", "s2", "--steps", 30, "--checkpoints", 2,
               "--accelerator", "cpu", "--out", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    evaluation = bench.evaluate(out, by_group=True)
    data = read(table, group="patient", target="ill", domain="site")
    x, y = data.domains["s2"].tensors
    right = bench.load_model(out).predict(x).argmax(1) == y
    held_out = evaluation.domains[-1]
    assert [g.score for g in held_out.groups] == sorted(g.score for g in held_out.groups)
    for group in held_out.groups:
        rows = data.groups["s2"].of_sample == data.groups["s2"].names.index(group.group)
        assert group.samples == int(rows.sum())
        assert group.score == pytest.approx(right[rows].double().mean().item())
    shown = run("evaluate", out, "--by-group")
    assert "mean of 20 groups" in shown.stdout
    assert not bench.evaluate(out).domains[-1].groups
    plain = replace(bench.TrainConfig("colored-digits", "-90%"), **SMALL)
    bench.train(plain, tmp_path / "plain")
    with pytest.raises(DataError, match="says of no groups"):
        bench.evaluate(tmp_path / "plain", by_group=True)
