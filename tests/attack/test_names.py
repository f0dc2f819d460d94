"""Names are data: every evil name through every command and every format."""

import csv
import html.parser
import io
import json
import re

import pytest
from PIL import Image

from domaingrad.bench.escaping import csv_cell, latex, markdown, plain

from .conftest import TRAIN
from .invoking import command

NAMES = {
    "markup": "[/A]", "bold": "a[bold]b", "link": "[link=file:///etc]x[/link]", "slash": "a\\[b]\\",
    "escapes": "\x1b[31mred\x1b[0m", "title": "\x1b]0;owned\x07", "c1": "\x9b31m", "bell": "a\ab",
    "lines": "a\nb\r\nc\u2028d\u2029e", "turned": "a\u202egnp.exe", "nul": "a\x00b",
    "formula": "=1+1|cmd", "at": "@SUM(A1)", "plus": "+1+cmd", "minus": "-1+cmd", "tab": "\t=1",
    "latex": r"\input{/etc/passwd}$x_1^2$%&#~", "html": "<script>alert(1)</script>&amp;\"'",
    "markdown": "a|b `c` *d* _e_ [f](g) <b>h</b>", "emoji": ":smile: 😀 é ü 漢字",
    "long": "x" * 5000, "quotes": "\"'\"\"", "none": "None", "nan": "nan", "null": "NULL",
    "dots": "..", "path": "../../etc/passwd", "dash": "--help", "braces": "{0}{name}%s%n",
}  # fmt: skip


class Page(html.parser.HTMLParser):
    """What a browser would run or show of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.shown = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.shown.append(data)


def acts_on_nothing(text):
    """No control characters but the end of a line, none that turn others."""
    return not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


FAST = ("markup", "lines", "formula", "html", "long")
PARAMS = [
    pytest.param(text, id=kind, marks=[] if kind in FAST else [pytest.mark.slow])
    for kind, text in NAMES.items()
]


@pytest.fixture(params=PARAMS)
def name(request):
    return request.param


def table(path, name):
    """Three domains, two classes, a column and groups, one of each with the name."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["site", "ill", "age", "kind", "who"])
        for site in (name, "b", "c"):
            for n in range(10):
                told = [name, "no"][n % 2]
                writer.writerow([site, told, n, [name, "k"][n % 2], f"{name}{n // 2}"])


def test_a_name_goes_through_every_command(name, tmp_path, monkeypatch):
    if name.strip() != name or "\x00" in name:
        name = name.strip().replace("\x00", "")
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "t.csv", name)
    shown = plain(name)
    out = tmp_path / "run"
    line = ["--data", "csv:t.csv", "--target", "ill", "--domain", "site", "--group", "who"]
    steps = [*TRAIN, *line, "--out", out]
    commands = [
        [*steps, f"--hold-out={name}"],
        ["evaluate", out, "--by-group"],
        ["evaluate", out, "--by-group", "--json"],
        ["inspect", out, "--plot", "conflict.svg"],
        ["predict", out, "t.csv"],
        ["predict", out, "t.csv", "--csv"],
        ["predict", out, "t.csv", "--json"],
    ]
    for each in commands:
        result = command(each)
        assert result.exit_code == 0, result.output
        assert acts_on_nothing(result.stderr)
        if "--json" in each:
            assert name in result.stdout.encode().decode() or json.loads(result.stdout)
        elif "--csv" in each:
            rows = list(csv.reader(io.StringIO(result.stdout)))
            assert all(csv_cell(cell) == cell for row in rows[1:] for cell in row[:2])
        else:
            assert acts_on_nothing(result.stdout)
            assert shown in result.stdout or len(shown) > 900 or each[0] in ("predict", "inspect")


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_names_go_through_every_format_of_a_report(every, tmp_path, monkeypatch):
    """All names are domains of one table, each held out in turn; a few of them in `make test`."""
    monkeypatch.chdir(tmp_path)
    names = [n.strip().replace("\x00", "") for n in NAMES.values() if len(n) < 100]
    names = list(dict.fromkeys(names)) if every else [NAMES[k] for k in ("html", "latex", "lines")]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["site", "ill", "age"])
        for site in (*names, "plain"):
            writer.writerows([site, n % 2, n] for n in range(10))
    sweep = ["sweep", "--data", "csv:t.csv", "--target", "ill", "--domain", "site", "--draws", 1,
             "--trials", 1, "--steps", 1, "--batch", 1, "--checkpoints", 1, "--methods", "erm",
             "--jobs", 1, "--accelerator", "cpu", "--out", "out"]  # fmt: skip
    result = command(sweep)
    assert result.exit_code == 0, result.output
    assert acts_on_nothing(result.output)
    for form in ("table", "markdown", "latex"):
        shown = command(["report", "out", "--format", form]).stdout
        assert acts_on_nothing(shown)
        escaped = {"table": plain, "markdown": markdown, "latex": latex}[form]
        assert all(escaped(name) in shown for name in names)
    tables = [line for line in (tmp_path / "out" / "results.md").read_text().splitlines()
              if line.startswith("|")]  # fmt: skip
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in tables[:3]}) == 1
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert "script" not in page.tags
    assert "b" not in page.tags
    text = " ".join(page.shown)
    assert all(plain(name) in text for name in names)
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        told = {row["held_out"] for row in csv.DictReader(file)}
    assert told == {csv_cell(name) for name in (*names, "plain")}
    assert not any(re.match(r"[=@\t\r]|[+-](?!\d+%?$)", cell) for cell in told)
    document = json.loads(command(["report", "out", "--json"]).stdout)
    assert {row["held_out"] for row in document["selected"]} == {*names, "plain"}


FILES = ["[A].png", "a[bold]b.png", "\x1b[31m.png", "=1+1|cmd.png", "a\nb.png",
         b"\xff\xfe.png", "<img src=x>.png"]  # fmt: skip


def test_files_of_any_name_are_decoded_predicted_and_told(good, tmp_path):
    place = str(tmp_path / "in").encode()
    import os

    os.mkdir(place)
    for name in FILES:
        raw = name if isinstance(name, bytes) else name.encode()
        with open(place + b"/" + raw, "wb") as file:
            Image.new("RGB", (9, 9), (200, 10, 10)).save(file, "PNG")
    for form in ([], ["--csv"], ["--json"]):
        result = command(["predict", good["seen"], tmp_path / "in", *form])
        assert result.exit_code == 0, result.output
        assert acts_on_nothing(result.stdout)
    with open(place + b"/\xff\x1b[0m.png", "wb") as file:
        file.write(b"no picture")
    result = command(["predict", good["seen"], tmp_path / "in"])
    assert result.exit_code == 2
    assert acts_on_nothing(result.output)
    assert "\\udcff\\x1b[0m.png" in result.stderr


def test_a_line_break_in_a_recipe_writes_no_line_of_its_own(copied):
    from domaingrad.bench.checked import read_document, write_document

    sweep = copied("sweep")
    plan = read_document(sweep / "plan.json")
    plan.pop("sum", None)
    told = dict.fromkeys(("recipe", "chosen", "summary", "source"), "a\n\n# owned\n<b>x</b>")
    plan["data"] = [data | told for data in plan["data"]]
    write_document(sweep / "plan.json", plan)
    assert command(["report", sweep]).exit_code == 0
    for name in ("results.md", "results.tex", "report.html"):
        text = (sweep / name).read_text()
        assert not re.search(r"^\s*# owned", text, re.MULTILINE)
        assert "<b>" not in text
