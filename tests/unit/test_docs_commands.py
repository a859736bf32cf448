"""Every command that the documentation shows exists and takes the arguments shown.

That they also do what is said is tested by running them: `docs_blocks.script_of` makes one bash
script of a file, by the conventions described there.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from docs_blocks import ROOT, blocks, documents, script_of

from verispect.cli.main import build_parser

_OTHER_PROGRAMS = {"curl", "cat", "ls", "export"}
_LANGUAGES = {"console", "python", "sh", "text", "toml", "json", "cddl"}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _commands() -> list[tuple[str, str]]:
    return [
        (f"{_name(path)}:{block.line}", command)
        for path in documents()
        for block in blocks(path)
        if block.kind == "console"
        for command in block.commands()
    ]


@pytest.mark.parametrize(("where", "command"), _commands())
def test_each_shown_command_parses(where: str, command: str) -> None:
    """A `verispect` command in a console block is one that the command line accepts."""
    words = shlex.split(command.removesuffix(" &"), comments=True)
    for redirection in ("|", ">", "2>", "<", "&&"):
        if redirection in words:
            words = words[: words.index(redirection)]
    if words[0] == "verispect":
        build_parser().parse_args(words[1:])
    else:
        assert words[0] in _OTHER_PROGRAMS, where


def test_the_documentation_shows_commands_at_all() -> None:
    """The extraction finds the commands; a test over none of them would pass always."""
    shown = {shlex.split(command)[1] for _, command in _commands() if "verispect" in command[:9]}
    assert {"serve", "ask", "verify", "inspect", "models", "keys", "policy"} <= shown


@pytest.mark.parametrize("path", documents(), ids=_name)
def test_each_document_becomes_a_script_that_bash_can_read(path: Path) -> None:
    """What will be run is well-formed, its Python blocks included."""
    script = script_of(path, ports=(1, 2))
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=30)
    for block in blocks(path):
        assert block.kind in _LANGUAGES, f"{path.name}:{block.line}"
        if block.kind == "python":
            compile(block.text, f"{path.name}:{block.line}", "exec")
        if block.kind == "toml":
            tomllib.loads(block.text)


def test_each_make_target_and_extra_that_is_named_exists() -> None:
    """`make X` and `.[extra]` in the documentation are targets and extras of this project."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"])
    named = [*documents(), ROOT / "CONTRIBUTING.md"]
    texts = {_name(path): path.read_text(encoding="utf-8") for path in named}
    for where, text in texts.items():
        for target in re.findall(r"(?:^|`|\$ )make ([a-z-]+)", text, re.MULTILINE):
            assert target in targets, f"{where}: make {target}"
        for group in re.findall(r"\.\[([a-z,]+)\]", text):
            assert extras.issuperset(group.split(",")), f"{where}: {group}"
