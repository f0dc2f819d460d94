"""Bad inputs end with one clear line, a status that is not 0, and nothing written."""

import re

import pytest
import yaml

from domaingrad.bench import plain

from .bad_inputs import COMMANDS, FILES, LATER, SETTINGS
from .invoking import command, require_clear_end


@pytest.fixture
def filled(good, tmp_path):
    """A command with its names put in, and where nothing may be written."""

    def fill(line):
        places = {"out": tmp_path / "out"}
        for name in set(re.findall(r"\{([\w.-]+)\}", line)) - {"out"}:
            places[name] = good.get(name) or tmp_path / name
            if name in FILES:
                places[name] = tmp_path / "made" / name
                places[name].parent.mkdir(exist_ok=True)
                if not places[name].exists() and not places[name].is_symlink():
                    FILES[name](places[name], good)
        return re.sub(r"\{([\w.-]+)\}", lambda name: str(places[name[1]]), line)

    return fill


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param(*each, id=str(n), marks=[] if n % 3 == 0 else [pytest.mark.slow])
        for n, each in enumerate(COMMANDS)
    ],
)
def test_a_bad_command_ends_with_a_clear_line(line, said, filled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    require_clear_end(command(filled(line)), filled(said))
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("*.part"))
    assert not (tmp_path / "x").exists()  # what code in a file would have made


@pytest.mark.parametrize(("line", "said"), LATER)
def test_a_video_that_cannot_be_read_is_told(line, said, filled):
    require_clear_end(command(filled(line)), said)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(*each, id=f"{each[0]}-{n}", marks=[] if n % 5 == 0 else [pytest.mark.slow])
        for n, each in enumerate(SETTINGS)
    ],
)
def test_a_setting_of_a_wrong_kind_is_named(name, value, good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((good["run"] / "config.yaml").read_text()) | {name: value}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    line = ["train", "--config", tmp_path / "config.yaml", "--out", tmp_path / "out"]
    result = command(line)
    require_clear_end(result, "")
    said = re.sub("[-_]", "", result.stderr.lower())
    word = name.split("_")[-1].rstrip("s")
    assert word in said or plain(value).lower() in said or f"take no {next(iter(value))}" in said
    assert not (tmp_path / "out").exists()
