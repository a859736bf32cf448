"""Every internal link of every Markdown file leads somewhere, and nothing private is published."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from docs_blocks import ROOT

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def _markdown_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return [ROOT / name for name in listed if (ROOT / name).exists()]


def _anchors(path: Path) -> set[str]:
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("path", _markdown_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_each_internal_link_leads_somewhere(path: Path) -> None:
    """A relative link names a file that is there, and its fragment a heading of it."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in _LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        assert linked.exists(), target
        if fragment and linked.suffix == ".md":
            assert fragment in _anchors(linked), target


def test_the_documents_that_readers_expect_are_there() -> None:
    """The set of documents is complete and none is empty."""
    for name in (
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LIMITATIONS.md",
        "SECURITY.md",
        "docs/glossary.md",
        "docs/policy.md",
        "docs/threat-model.md",
        "docs/picture.svg",
        "docs/adr/README.md",
        "spec/README.md",
    ):
        assert (ROOT / name).stat().st_size > 200, name
