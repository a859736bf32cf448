"""README and guides do what they say: everything runnable in them is run, in order, for real."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from docs_blocks import documents, script_of

_SECONDS = 300


@pytest.mark.slow
@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_each_document_runs_from_top_to_bottom(document: Path, tmp_path: Path) -> None:
    """A reader who types what is shown, in an empty folder, meets no error."""
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.create_server(("127.0.0.1", 0)) as second,
    ):
        ports = first.getsockname()[1], second.getsockname()[1]
    search_path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": search_path, "OMP_NUM_THREADS": "1"}
    environment.pop("VERISPECT_HOME", None)
    log = tmp_path / "log"
    work = tmp_path / "work"
    work.mkdir()
    with log.open("wb") as output:
        # To a file: a server left behind would hold a pipe open and hang the test.
        outcome = subprocess.run(
            ["bash", "-c", script_of(document, ports=ports)],
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=False,
        )
    assert outcome.returncode == 0, log.read_text(errors="replace")[-4000:]
    shutil.rmtree(work)  # Model files: the folders that pytest keeps would add up.
