"""Help is there at once: nothing is imported for it that takes long."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

import domaingrad
from domaingrad.cli.app import COMMANDS, GROUPS, app, app_with


def test_help_imports_no_library_that_takes_long():
    code = (
        "import sys; from domaingrad.cli.app import app_with; from typer.testing import CliRunner; "
        "print(CliRunner().invoke(app_with(()), ['--help']).stdout); "
        "print({'torch', 'pandas', 'sklearn', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, imported = done.stdout.strip().splitlines()
    assert imported == "set()"
    for name in (*COMMANDS, *GROUPS):
        assert name in done.stdout


def test_commands_are_listed_in_the_words_that_they_have_when_loaded():
    quick, whole = (CliRunner().invoke(each, ["--help"]).stdout for each in (app_with(()), app))
    assert quick == whole


def test_a_command_that_is_given_is_the_real_one():
    shown = CliRunner().invoke(app_with({"predict"}), ["predict", "--help"])
    assert shown.exit_code == 0
    assert "--skip-unreadable" in shown.stdout


def test_lists_wait_for_no_library_but_torch():
    code = (
        "import sys; from domaingrad.cli.app import app_with; from typer.testing import CliRunner; "
        "result = CliRunner().invoke(app_with(['list']), ['list', 'methods']); "
        "assert result.exit_code == 0, result.output; "
        "print({'pandas.core', 'sklearn', 'matplotlib', 'jinja2', 'lightning_fabric'} "
        "& {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "set()"


def test_public_names_are_imported_when_they_are_asked_for():
    for name in domaingrad.__all__:
        assert getattr(domaingrad, name) is not None
        assert name in dir(domaingrad)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = domaingrad.nothing
