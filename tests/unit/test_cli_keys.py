"""`verispect keys`, and the key directory behind it."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.signer import DESCRIPTION_FILE, KEY_FILE, Issuer
from verispect.cli.main import main
from verispect.core.errors import Error

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def keys(tmp_path: Path, capsys: Capture) -> Path:
    directory = tmp_path / "keys"
    assert main(["keys", "new", "--issuer", "https://lab.example", "--keys", str(directory)]) == 0
    capsys.readouterr()
    return directory


def test_new_key_is_shown_and_never_its_private_half(tmp_path: Path, capsys: Capture) -> None:
    """What is printed is the public key; the private one is its owner's alone."""
    directory = tmp_path / "deep" / "keys"
    assert main(["keys", "new", "--issuer", "lab", "--development", "--keys", str(directory)]) == 0
    shown = capsys.readouterr()
    view = json.loads(shown.out)
    assert (view["issuer"], view["development"]) == ("lab", True)
    assert stat.S_IMODE((directory / KEY_FILE).stat().st_mode) == 0o600
    secret = (directory / KEY_FILE).read_text().splitlines()[1]
    assert secret not in shown.out + shown.err
    assert sorted(path.name for path in directory.iterdir()) == [DESCRIPTION_FILE, KEY_FILE]
    assert main(["keys", "show", "--keys", str(directory)]) == 0
    assert json.loads(capsys.readouterr().out) == view


def test_second_new_key_is_refused_and_changes_nothing(keys: Path, capsys: Capture) -> None:
    """A key is never replaced, nor is its name."""
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    assert main(["keys", "new", "--issuer", "another", "--keys", str(keys)]) == 4
    assert "is there already" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before


def test_of_two_who_make_a_key_one_wins_with_its_own_name(tmp_path: Path) -> None:
    """Key and description are of the same maker, whoever comes first."""
    outcomes: dict[str, str] = {}
    start = threading.Barrier(4)

    def make(name: str) -> None:
        start.wait()
        try:
            issuer = Issuer.create(tmp_path / "k", name=name, development=False, now=1)
            outcomes[name] = issuer.signer.public_key.to_text()
        except Error as error:
            outcomes[name] = error.message

    threads = [threading.Thread(target=make, args=(f"issuer-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loaded = Issuer.load(tmp_path / "k")
    assert outcomes.pop(loaded.name) == loaded.signer.public_key.to_text()
    assert len(outcomes) == 3
    assert all("is there already" in outcome for outcome in outcomes.values())


@pytest.mark.parametrize("name", ["", "a\nb", "a\x1b[2J", "x" * 1000, "\u202eevil", "\udc80"])
def test_unusable_issuer_name_is_refused(tmp_path: Path, capsys: Capture, name: str) -> None:
    """Names with control or direction characters never get into a trusted root."""
    assert main(["keys", "new", "--issuer", name, "--keys", str(tmp_path / "k")]) == 3
    assert "printable" in capsys.readouterr().err
    assert not (tmp_path / "k" / KEY_FILE).exists()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_key_that_others_may_read_is_refused(keys: Path, capsys: Capture, mode: int) -> None:
    """Signing with a key that others may have is worse than not signing."""
    (keys / KEY_FILE).chmod(mode)
    assert main(["keys", "show", "--keys", str(keys)]) == 4
    assert "0600" in capsys.readouterr().err


def _pem(kind: str) -> bytes:
    if kind == "ec":
        key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
        key = ec.generate_private_key(ec.SECP256R1())
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))


@pytest.mark.parametrize("content", ["", "hello", "ec", "encrypted", "huge", "binary"])
def test_wrong_key_file_is_malformed(keys: Path, capsys: Capture, content: str) -> None:
    """A file that is no Ed25519 key in PEM is refused by name, without its content."""
    contents = {"ec": _pem("ec"), "encrypted": _pem("encrypted"), "huge": b"A" * 10**6}
    contents["binary"] = bytes(range(256))
    data = contents.get(content, content.encode())
    (keys / KEY_FILE).write_bytes(data)
    assert main(["keys", "show", "--keys", str(keys)]) == 3
    told = capsys.readouterr().err
    assert "malformed-key" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"issuer": "x", "development": "no", "notBefore": 1}',
        b'{"issuer": "x", "development": false, "notBefore": -1}',
        b'{"issuer": "a\\u0000", "development": false, "notBefore": 1}',
        b'{"issuer": "x", "development": false, "notBefore": 1, "more": 1}',
    ],
)
def test_wrong_description_is_malformed(keys: Path, capsys: Capture, content: bytes) -> None:
    """A key whose description is damaged signs nothing."""
    (keys / DESCRIPTION_FILE).write_bytes(content)
    assert main(["keys", "show", "--keys", str(keys)]) == 3
    assert "malformed-key" in capsys.readouterr().err


def test_missing_key_is_told(tmp_path: Path, capsys: Capture) -> None:
    """A directory without a key is an error that names the file."""
    assert main(["keys", "show", "--keys", str(tmp_path)]) == 4
    assert KEY_FILE in capsys.readouterr().err


def test_directory_that_cannot_be_written_is_told(tmp_path: Path, capsys: Capture) -> None:
    """A file in the way of the directory is an error."""
    (tmp_path / "file").write_text("x")
    assert main(["keys", "new", "--issuer", "x", "--keys", str(tmp_path / "file" / "k")]) == 4
    assert "cannot write a key" in capsys.readouterr().err


def test_trusted_root_lists_the_key(keys: Path, tmp_path: Path, capsys: Capture) -> None:
    """The file that is written is a trusted root with this key alone."""
    out = tmp_path / "new" / "root.json"
    assert main(["keys", "trusted-root", "--out", str(out), "--keys", str(keys)]) == 0
    root = TrustedRoot.from_json(out.read_bytes())
    assert [entry.issuer for entry in root.issuer_keys] == ["https://lab.example"]
    assert root.issuer_keys[0].key == Issuer.load(keys).signer.public_key
    assert "0 models" in capsys.readouterr().out
