"""The canonical manifest: one form, one digest, nothing filled in."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verispect.core.encoding import Digest, decode_content, encode_content, sha256
from verispect.core.errors import Error, MalformedError, Reason, UnsupportedError
from verispect.core.statement import Determinism, ModelIdentity
from verispect.models.components import (
    AdapterEntry,
    ChatTemplate,
    DeterminismClaim,
    EngineRequirement,
    FileEntry,
    FileRole,
    LanguageFacts,
    Provenance,
    TemplateOrigin,
    TensorSummary,
)
from verispect.models.interfaces import parse_endpoint
from verispect.models.manifest import MANIFEST_RESOURCE, ModelFormat, ModelManifest, parse_manifest


def digest(number: int) -> Digest:
    return sha256(bytes([number]))


def language_model(**changes: object) -> ModelManifest:
    manifest = ModelManifest(
        model_format=ModelFormat.GGUF,
        identity=ModelIdentity.LOCAL_WEIGHTS,
        engine=EngineRequirement("llama.cpp", "==2026.10.11549"),
        files=(
            FileEntry("adapters/a.gguf", FileRole.ADAPTER, 5, digest(5)),
            FileEntry("adapters/b.gguf", FileRole.ADAPTER, 6, digest(6)),
            FileEntry("chat-template.jinja", FileRole.CHAT_TEMPLATE, 7, digest(2)),
            FileEntry("model.gguf", FileRole.MODEL, 100, digest(1)),
        ),
        tensors=TensorSummary(digest(3), 3, 1000, {"F32": 1, "Q4_1": 2}),
        language=LanguageFacts("llama", 2048, digest(4), 300),
        chat_template=ChatTemplate(TemplateOrigin.FILE, digest(2)),
        adapters=(AdapterEntry("adapters/a.gguf", "1"), AdapterEntry("adapters/b.gguf", "0.5")),
        generation_defaults={"temperature": 0.2, "top_k": 40},
        provenance=Provenance(digest(1), "some-package", "1.0", "Apache-2.0"),
    )
    return dataclasses.replace(manifest, **changes)  # type: ignore[arg-type]


def test_manifest_survives_its_canonical_bytes() -> None:
    """Encoding and parsing give the same manifest and the same identity."""
    manifest = language_model()
    parsed = parse_manifest(manifest.to_bytes())
    assert parsed == manifest
    assert parsed.model_id == sha256(manifest.to_bytes())


@pytest.mark.parametrize(
    "changes",
    [
        {"engine": EngineRequirement("llama.cpp", "==2026.10.11550")},
        {"tensors": TensorSummary(digest(9), 3, 1000, {"F32": 1, "Q4_1": 2})},
        {"tensors": TensorSummary(digest(3), 3, 1000, {"F32": 2, "Q4_1": 1})},
        {"language": LanguageFacts("llama", 2048, digest(9), 300)},
        {"chat_template": ChatTemplate(TemplateOrigin.OVERRIDE, digest(2))},
        {"parent": digest(8)},
        {
            "adapters": (
                AdapterEntry("adapters/b.gguf", "0.5"),
                AdapterEntry("adapters/a.gguf", "1"),
            )
        },
        {
            "adapters": (
                AdapterEntry("adapters/a.gguf", "1"),
                AdapterEntry("adapters/b.gguf", "0.6"),
            )
        },
        {"generation_defaults": {"temperature": 0.3, "top_k": 40}},
        {"determinism": DeterminismClaim(Determinism.EXACT, None, digest(7))},
        {"determinism": DeterminismClaim(Determinism.TOLERANT, "0.01", digest(7))},
        {"prover_commitment": digest(8)},
        {"provenance": None},
    ],
)
def test_every_part_changes_the_identity(changes: dict[str, object]) -> None:
    """Order and scale of adapters, template, tokenizer, engine and the rest decide the identity."""
    changed = language_model(**changes)
    assert changed.model_id != language_model().model_id
    assert parse_manifest(changed.to_bytes()) == changed


def edited(path: list[object], value: object) -> bytes:
    content = decode_content(language_model().to_bytes())
    target = content
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return encode_content(content)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["surprise"], 1),
        (["files", 0, "surprise"], 1),
        (["format"], "safetensors"),
        (["identity"], "upstream-reported"),
        (["files"], []),
        (["files", 0, "name"], "../a.gguf"),
        (["files", 0, "name"], "/etc/passwd"),
        (["files", 0, "name"], "zzz.gguf"),
        (["files", 3, "name"], MANIFEST_RESOURCE),
        (["files", 0, "size"], -1),
        (["files", 0, "size"], True),
        (["files", 0, "sha256"], b"short"),
        (["files", 0, "role"], "model"),
        (["tensors"], None),
        (["tensors", "count"], 4),
        (["language"], None),
        (["chat_template", "origin"], "none"),
        (["chat_template", "sha256"], bytes(32)),
        (["adapters", 0, "scale"], "1.0"),
        (["adapters", 0, "scale"], "1e3"),
        (["adapters", 0, "file"], "model.gguf"),
        (["generation_defaults", "secret_mode"], 1),
        (["generation_defaults", "top_k"], "40"),
        (["determinism", "class"], "perfect"),
        (["determinism", "class"], "exact"),
        (["determinism", "epsilon"], "0.1"),
        (["engine", "versions"], "~=1.0"),
        (["parent"], "text"),
        (["remote"], {"scheme": "https"}),
    ],
)
def test_parser_refuses_what_the_specification_does_not_name(
    path: list[object], value: object
) -> None:
    """Unknown keys, wrong types, contradictions and non-canonical values are malformed."""
    with pytest.raises(MalformedError) as caught:
        parse_manifest(edited(path, value))
    assert caught.value.reason is Reason.MALFORMED_MANIFEST


def test_parser_refuses_missing_keys() -> None:
    """A key that is left out is not filled in."""
    content = decode_content(language_model().to_bytes())
    for key in list(content):
        with pytest.raises(MalformedError):
            parse_manifest(encode_content({k: v for k, v in content.items() if k != key}))


def test_parser_tells_another_version_from_damage() -> None:
    """A later version is not understood, which is another answer than malformed."""
    with pytest.raises(UnsupportedError) as caught:
        parse_manifest(edited(["version"], 2))
    assert caught.value.reason is Reason.UNSUPPORTED_VERSION


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_manifest_never_passes_as_the_same_model(data: st.DataObject) -> None:
    """Truncation and bit flips give our errors, or a manifest with another identity."""
    original = language_model().to_bytes()
    position = data.draw(st.integers(0, len(original) - 1))
    flipped = bytearray(original)
    flipped[position] ^= 1 << data.draw(st.integers(0, 7))
    for damaged in (original[:position], bytes(flipped)):
        try:
            parsed = parse_manifest(damaged)
        except Error:
            continue
        assert parsed.to_bytes() == damaged
        assert parsed.model_id != sha256(original)


@pytest.mark.parametrize(
    ("versions", "version", "accepted"),
    [
        ("", "anything", True),
        ("==2026.10.11549", "2026.10.11549", True),
        ("==2026.10.11549", "xllamacpp 2026.10.11549", True),
        ("==2026.10.11549", "2026.10.1154", False),
        (">=1.32,<1.33", "1.32.0", True),
        (">=1.32,<1.33", "1.32.7", True),
        (">=1.32,<1.33", "1.33.0", False),
        (">=1.32,<1.33", "1.4", False),
        (">=1.32", "unknown", False),
    ],
)
def test_engine_requirement_compares_numbers(versions: str, version: str, accepted: bool) -> None:
    """Version clauses compare numerically, and an unreadable version meets none."""
    requirement = EngineRequirement("engine", versions)
    assert requirement.accepts("engine", version) is accepted
    assert requirement.accepts("other", version) is False


def test_remote_model_is_never_identified_as_weights() -> None:
    """A remote manifest that claims local weights is refused."""
    manifest = ModelManifest(
        model_format=ModelFormat.REMOTE,
        identity=ModelIdentity.UPSTREAM_REPORTED,
        engine=EngineRequirement("upstream", ""),
        remote=parse_endpoint("https://API.Example.com:443/v1/", "big"),
    )
    assert parse_manifest(manifest.to_bytes()) == manifest
    assert manifest.remote is not None
    assert manifest.remote.base_url == "https://api.example.com/v1"
    lying = dataclasses.replace(manifest, identity=ModelIdentity.LOCAL_WEIGHTS)
    with pytest.raises(MalformedError):
        parse_manifest(lying.to_bytes())


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/v1",
        "example.com/v1",
        "https://user:secret@example.com/v1",
        "https://example.com/v1?key=secret",
        "https://example.com/v1#part",
        "https://example.com:99999/v1",
        "https:///v1",
    ],
)
def test_remote_address_carries_no_secret(url: str) -> None:
    """Addresses with credentials or a query are refused without repeating them."""
    with pytest.raises(Error) as caught:
        parse_endpoint(url, "big")
    assert caught.value.reason is Reason.INVALID_REQUEST
    assert "secret" not in str(caught.value)
