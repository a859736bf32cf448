"""Reads the runnable blocks of the documentation.

Conventions, for `README.md`, `docs/*.md` and `docs/guides/*.md`:

- a fenced block `console` holds commands: each line that begins with `$ ` is one, a trailing
  backslash continues it, every other line is output, shown to people and not compared;
- a fenced block `python` is a program;
- an HTML comment whose first line is `<!-- console` or `<!-- python` holds a block that is run and
  not shown;
- a comment `<!-- file: NAME -->` on the line before a fenced block of any kind says that the block
  is the content of that file in the working directory;
- a command that ends in ` &` runs until the file's end; the next one waits until its port, the
  number after `--port`, takes connections;
- a comment `<!-- exit: N -->` on the line before a `console` block says that its last command ends
  with that code;
- blocks of all other kinds, `sh` and `text` among them, are not run.

`script_of` puts all that is to be run in one file's order into one bash script. It runs in an empty
working directory, with `VERISPECT_HOME` set to a folder of its own, and with `verispect` and
`python` of one environment first in `PATH`. The ports 8402 and 8403 are replaced by those given.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
SHOWN_PORTS: Final = ("8402", "8403")

_START: Final = re.compile(r"^(?:```(?P<fenced>[a-z]+)|<!-- (?P<hidden>console|python)\s*)$")
_FILE: Final = re.compile(r"^<!-- file: (?P<name>[a-z0-9.-]+) -->$")
_EXIT: Final = re.compile(r"^<!-- exit: (?P<code>\d+) -->$")
_PORT: Final = re.compile(r"--port (\d+)")


@dataclass(frozen=True)
class Block:
    """One block: its kind, text, and what the comment before it says."""

    kind: str
    text: str
    line: int
    file: str | None = None
    exit_code: int = 0

    def commands(self) -> list[str]:
        """Return the commands of a `console` block, continuations joined."""
        joined = re.sub(r"\\\n\s*", "", self.text)
        return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]


def documents() -> list[Path]:
    """Return the files whose blocks are runnable."""
    docs = ROOT / "docs"
    return [ROOT / "README.md", *sorted(docs.glob("*.md")), *sorted(docs.glob("guides/*.md"))]


def blocks(path: Path) -> Iterator[Block]:
    """Yield the blocks of a file in order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        start = _START.match(lines[number])
        if start is None:
            number += 1
            continue
        end_mark = "```" if start["fenced"] else "-->"
        end = lines.index(end_mark, number + 1)
        before = lines[number - 1] if number else ""
        file, code = _FILE.match(before), _EXIT.match(before)
        yield Block(
            kind=start["fenced"] or start["hidden"],
            text="\n".join(lines[number + 1 : end]) + "\n",
            line=number + 1,
            file=file["name"] if file else None,
            exit_code=int(code["code"]) if code else 0,
        )
        number = end + 1


def script_of(path: Path, *, ports: tuple[int, int]) -> str:
    """Return the bash script that runs everything runnable of a file."""
    lines = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for block in blocks(path):
        lines.append(f"# {path.name}:{block.line}")
        if block.file is not None:
            lines.append(f"printf %s {shlex.quote(block.text)} > {block.file}")
        elif block.kind == "python":
            lines.append(f"python -c {shlex.quote(block.text)}")
        elif block.kind == "console":
            lines += _console(block)
    shown = dict(zip(SHOWN_PORTS, map(str, ports), strict=True))
    # In one pass: a port that is given may have the number of another that is shown.
    return re.sub("|".join(shown), lambda found: shown[found[0]], "\n".join(lines)) + "\n"


def _console(block: Block) -> Iterator[str]:
    commands = block.commands()
    for index, command in enumerate(commands):
        yield f"echo {shlex.quote('$ ' + command)}"
        if command.endswith(" &"):
            yield command
            if port := _PORT.search(command):
                yield _wait_for(port[1])
        elif block.exit_code and index == len(commands) - 1:
            yield f"code=0; {command} || code=$?; test $code -eq {block.exit_code}"
        else:
            yield command


def _wait_for(port: str) -> str:
    probe = f"(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null"
    return f"for _ in $(seq 600); do {probe} && break; kill -0 $!; sleep 0.1; done"
