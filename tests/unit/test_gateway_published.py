"""Records behind digests: content-addressed, checked when read."""

from __future__ import annotations

from pathlib import Path

import pytest

from verispect.core.encoding import sha256
from verispect.core.errors import StoreError
from verispect.gateway.published import PublishedRecords


def test_record_comes_back_by_its_digest(tmp_path: Path) -> None:
    """The address of a record is its SHA-256, in this process and the next."""
    digest = PublishedRecords(tmp_path / "r").publish(b"record")
    assert digest == sha256(b"record")
    again = PublishedRecords(tmp_path / "r")
    assert again.read(digest) == b"record"
    assert again.publish(b"record") == digest
    assert again.read(sha256(b"other")) is None
    assert len(list((tmp_path / "r").iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"recorD", b"record\0"])
def test_damaged_record_is_an_error(tmp_path: Path, damage: bytes) -> None:
    """Other bytes than those of the digest are never given out."""
    records = PublishedRecords(tmp_path)
    digest = records.publish(b"record")
    next(tmp_path.iterdir()).write_bytes(damage)
    with pytest.raises(StoreError, match="damaged"):
        records.read(digest)


def test_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """A file in the way is told."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError):
        PublishedRecords(tmp_path / "file" / "r")
