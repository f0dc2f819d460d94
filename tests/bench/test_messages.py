"""What bench and faces say names settings; only the command line spells its options."""

import ast
import re
from pathlib import Path

import pytest

import domaingrad

SOURCE = Path(domaingrad.__file__).parent
FILES = [p for part in ("bench", "faces") for p in sorted((SOURCE / part).rglob("*.py"))]
FLAG = re.compile(r"(?<![\w-])--[a-z]")


def said(path: Path):
    """Texts of a file with their lines, but for docstrings and how an Option is spelled."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    left_out = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            left_out.add(id(node.value))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Option":
            left_out |= {id(part) for part in node.args[1:]}
    for node in ast.walk(tree):
        text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if text and id(node) not in left_out:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_message_spells_an_option_of_the_command_line(path):
    # The first line of a written config is a command.
    found = [
        (line, text)
        for line, text in said(path)
        if FLAG.search(text) and not text.startswith("# domaingrad train --config")
    ]
    assert not found


def test_a_flag_in_a_message_is_found(tmp_path):
    path = tmp_path / "x.py"
    path.write_text('"""--docs"""\nOption("a", "--b")\nraise ValueError(f"leave --c{1} out")\n')
    assert [FLAG.search(text) is not None for _, text in said(path)].count(True) == 1
