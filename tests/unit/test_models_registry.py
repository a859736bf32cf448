"""The registry: stable identities, whole files, names that stand for one model."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from verispect.core.errors import Error, ModelError, Reason, RequestError, StoreError
from verispect.models.blobs import BlobStore
from verispect.models.catalogue import CATALOGUE, locate
from verispect.models.components import TemplateOrigin
from verispect.models.registration import (
    Details,
    register_catalogued,
    register_file,
    register_remote,
)
from verispect.models.registry import ModelRegistry, is_model_name
from verispect.testing.tiny_gguf import CHAT_TEMPLATE, TinyModel, tiny_gguf, write_tiny_gguf


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "registry")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf")


def test_added_model_resolves_and_opens(registry: ModelRegistry, tiny: Path) -> None:
    """What was added comes back with the same identity and the same bytes."""
    added = register_file(registry, "lab/tiny", tiny)
    assert registry.names() == ["lab/tiny"]
    resolved = registry.resolve("lab/tiny")
    assert resolved == added
    with registry.open_verified(resolved) as files:
        assert files.main_content == tiny_gguf()
        assert files.chat_template == CHAT_TEMPLATE
        assert Path(files.main_sealed.path).read_bytes() == tiny_gguf()


def test_identity_is_stable(registry: ModelRegistry, tiny: Path, tmp_path: Path) -> None:
    """Adding again, under another name or elsewhere, gives the same model."""
    first = register_file(registry, "tiny", tiny)
    again = register_file(registry, "tiny", tiny)
    alias = register_file(registry, "alias", tiny)
    elsewhere = register_file(ModelRegistry(tmp_path / "other"), "tiny", tiny)
    assert again == first
    assert alias.model_id == elsewhere.model_id == first.model_id


def test_other_weights_template_and_defaults_are_other_models(
    registry: ModelRegistry, tiny: Path, tmp_path: Path
) -> None:
    """Weights, the effective template and its origin, and defaults each change the identity."""
    (tmp_path / "seed").mkdir()
    seeded = write_tiny_gguf(tmp_path / "seed" / "tiny.gguf", TinyModel(seed=1))
    models = [
        register_file(registry, "plain", tiny),
        register_file(registry, "seeded", seeded),
        register_file(registry, "template", tiny, Details(chat_template="{{ messages }}")),
        register_file(registry, "same-template", tiny, Details(chat_template=CHAT_TEMPLATE)),
        register_file(registry, "cool", tiny, Details(generation_defaults={"temperature": 0.1})),
    ]
    assert len({model.model_id for model in models}) == len(models)
    assert models[2].manifest.chat_template.origin is TemplateOrigin.OVERRIDE
    with registry.open_verified(models[2]) as files:
        assert files.chat_template == "{{ messages }}"


def test_name_does_not_silently_change_its_model(
    registry: ModelRegistry, tiny: Path, tmp_path: Path
) -> None:
    """Another model under a taken name is refused unless replacing is asked for."""
    first = register_file(registry, "tiny", tiny)
    other = write_tiny_gguf(tmp_path / "other.gguf", TinyModel(seed=1))
    with pytest.raises(ModelError) as caught:
        register_file(registry, "tiny", other)
    assert caught.value.reason is Reason.MODEL_EXISTS
    assert registry.resolve("tiny") == first
    assert register_file(registry, "tiny", other, replace=True).model_id != first.model_id
    assert registry.manifest(first.model_id) == first.manifest


@pytest.mark.parametrize("name", ["a", "A1", "a.b-c_d", "org/model", "x" * 63, "a/" + "b" * 63])
def test_allowed_names(name: str) -> None:
    """Letters, digits, dots, dashes and one slash make a name."""
    assert is_model_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "/x",
        "x/",
        "a/b/c",
        ".hidden",
        "-x",
        "a b",
        "é",
        "x" * 64,
        "a\n",
        "a%2Fb",
    ],
)
def test_refused_names(registry: ModelRegistry, tiny: Path, name: str) -> None:
    """Any other name is refused when adding and unknown when asking."""
    assert not is_model_name(name)
    with pytest.raises(RequestError):
        register_file(registry, name, tiny)
    with pytest.raises(RequestError):
        register_remote(registry, name, "https://api.example.com/v1", "big")
    with pytest.raises(ModelError) as caught:
        registry.resolve(name)
    assert caught.value.reason is Reason.MODEL_NOT_FOUND


def test_unknown_name_is_not_found(registry: ModelRegistry, tiny: Path) -> None:
    """A name that was not added never resolves, an empty registry included."""
    for _ in range(2):
        with pytest.raises(ModelError) as caught:
            registry.resolve("tinny")
        assert caught.value.reason is Reason.MODEL_NOT_FOUND
        register_file(registry, "tiny", tiny)


def test_blobs_are_read_only_and_keys_private(registry: ModelRegistry, tiny: Path) -> None:
    """Stored bytes cannot be overwritten by accident, and the signing key is the owner's."""
    register_file(registry, "tiny", tiny)
    for blob in (registry.path / "blobs" / "sha256").iterdir():
        assert stat.S_IMODE(blob.stat().st_mode) == 0o444
    key = registry.path / "keys" / "model-signing.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_sealed_memory_cannot_be_written(registry: ModelRegistry, tiny: Path) -> None:
    """What was hashed stays what the engine reads."""
    model = register_file(registry, "tiny", tiny)
    with registry.open_verified(model) as files:
        descriptor = files.main_sealed.descriptor
        with pytest.raises(OSError, match="not permitted"):
            os.pwrite(descriptor, b"x", 0)
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(descriptor, 1)
        assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE


def test_only_named_files_are_given_out(registry: ModelRegistry, tiny: Path) -> None:
    """A file that the manifest does not name cannot be had."""
    model = register_file(registry, "tiny", tiny)
    with registry.open_verified(model) as files, pytest.raises(ModelError):
        files.content("other.gguf")


def test_concurrent_adds_leave_one_good_registry(registry: ModelRegistry, tiny: Path) -> None:
    """Processes that add at the same time wait for each other; every name is there."""
    script = (
        "import sys; from pathlib import Path;"
        "from verispect.models.registry import ModelRegistry;"
        "from verispect.models.registration import register_file;"
        "register_file(ModelRegistry(Path(sys.argv[1])), sys.argv[3], Path(sys.argv[2]))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(registry.path), str(tiny), f"name-{number}"]
        )
        for number in range(3)
    ]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert registry.names() == ["name-0", "name-1", "name-2"]
    assert len({registry.resolve(name).model_id for name in registry.names()}) == 1
    registry.open_verified(registry.resolve("name-2")).close()


def test_crash_before_the_rename_leaves_a_good_registry(
    registry: ModelRegistry, tiny: Path
) -> None:
    """What a crashed writer left is not a blob, and the next writer sweeps it."""
    script = (
        "import os, sys; from pathlib import Path;"
        "Path.replace = lambda *_: os._exit(9);"
        "from verispect.models.registry import ModelRegistry;"
        "from verispect.models.registration import register_file;"
        "register_file(ModelRegistry(Path(sys.argv[1])), 'tiny', Path(sys.argv[2]))"
    )
    crashed = subprocess.run(
        [sys.executable, "-c", script, str(registry.path), str(tiny)], check=False, timeout=60
    )
    assert crashed.returncode == 9
    folder = registry.path / "blobs" / "sha256"
    leftovers = list(folder.iterdir())
    assert leftovers
    assert all(file.name.startswith(".writing-") for file in leftovers)
    assert registry.names() == []
    model = register_file(registry, "tiny", tiny)
    assert not [file for file in folder.iterdir() if file.name.startswith(".")]
    registry.open_verified(model).close()


def test_adding_again_heals_a_damaged_blob(registry: ModelRegistry, tiny: Path) -> None:
    """The same file from its source puts the right bytes back."""
    model = register_file(registry, "tiny", tiny)
    entry = next(entry for entry in model.manifest.files if entry.name == "tiny.gguf")
    blob = registry.blobs.path(entry.digest)
    blob.chmod(0o644)
    blob.write_bytes(b"damaged")
    with pytest.raises(ModelError):
        registry.open_verified(model)
    register_file(registry, "tiny", tiny)
    registry.open_verified(model).close()


def test_unwritable_registry_says_so(tmp_path: Path, tiny: Path) -> None:
    """A folder that is a file is a store error, not a crash."""
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    with pytest.raises(StoreError):
        register_file(ModelRegistry(blocked), "tiny", tiny)


def test_damaged_name_record_is_refused(registry: ModelRegistry, tiny: Path) -> None:
    """A name's record is read strictly; the record of another name does not stand in."""
    register_file(registry, "tiny", tiny)
    path = registry.path / "names" / "tiny.json"
    record = json.loads(path.read_text())
    path.chmod(0o644)
    damaged = [
        b"",
        b"[]",
        json.dumps({**record, "name": "other"}).encode(),
        json.dumps({**record, "model_id": "00"}).encode(),
        json.dumps({**record, "extra": 1}).encode(),
        json.dumps({**record, "created": "now"}).encode(),
    ]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(Error):
            registry.resolve("tiny")


def test_remote_model_has_no_files(registry: ModelRegistry) -> None:
    """A remote model is registered, signed and opened without any bytes."""
    model = register_remote(registry, "far", "https://api.example.com/v1", "big")
    with registry.open_verified(model) as files:
        assert files.manifest.remote is not None
        with pytest.raises(ModelError):
            _ = files.main_content


def test_missing_and_foreign_files_are_refused(registry: ModelRegistry, tmp_path: Path) -> None:
    """A file that is not there, or is no model, registers nothing."""
    text = tmp_path / "notes.txt"
    text.write_text("not a model")
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "absent.gguf", text, empty, tmp_path, tmp_path / "pipe.onnx"):
        with pytest.raises(Error):
            register_file(registry, "x", path)
    assert registry.names() == []


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_catalogue_entry_is_the_pinned_file(registry: ModelRegistry, name: str) -> None:
    """Every known model is found in its installed package and has the pinned digest."""
    entry, _ = locate(name)
    model = register_catalogued(registry, name, name)
    assert model.manifest.provenance is not None
    assert model.manifest.provenance.source_digest == entry.digest
    assert model.manifest.provenance.distribution == entry.distribution
    assert model.manifest.provenance.licence == entry.licence


def test_unexpected_digest_is_refused(registry: ModelRegistry, tiny: Path) -> None:
    """A file that is not the expected one is not registered."""
    entry = CATALOGUE["magika"]
    with pytest.raises(ModelError) as caught:
        register_file(registry, "tiny", tiny, Details(expected=entry.digest))
    assert caught.value.reason is Reason.MODEL_CHANGED
    assert registry.names() == []


def test_blob_of_the_wrong_size_is_not_read(tmp_path: Path) -> None:
    """A blob longer than stated is refused, however it is loaded."""
    store = BlobStore(tmp_path)
    stored = store.store_bytes(b"content")
    for load in (store.load, store.load_sealed):
        with pytest.raises(ModelError):
            load(stored.digest, stored.size - 1, what="a test")
