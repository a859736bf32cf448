"""From an imported integer model to a registered one.

What is registered is the provable model (graph and commitment) and its weights file. The weights
are committed to again here, so that a registered model is one whose commitment is that of its
weights; a pair that does not fit is refused. The model that it was made from is named as parent
where the registrar says so; that the two compute alike is measured at import, not shown by this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from verispect.core.encoding import Digest, sha256
from verispect.core.errors import ModelError, Reason, StoreError
from verispect.core.statement import Determinism, ModelIdentity
from verispect.models.components import (
    DeterminismClaim,
    FileEntry,
    FileRole,
    Provenance,
    TensorSummary,
)
from verispect.models.manifest import ModelFormat, ModelManifest
from verispect.models.merkle import TensorDigest, tensor_root
from verispect.models.registration import ENGINES
from verispect.models.registry import ModelRegistry
from verispect.models.verified import RegisteredModel
from verispect.proof.provable import ProvableModel, decode_weights
from verispect.proof.verifier.views import require_modest

PROVABLE_FILE: Final = "provable-model.cbor"
WEIGHTS_FILE: Final = "weights.cbor"

COMMITMENTS_FOLDER: Final = "commitments"
"""In the registry: links to hiding commitments, named by the provable model's digest."""

CheckCommitment = Callable[[ProvableModel, Sequence[Any]], bool]
"""Tells whether a provable model's root is that of the weights; the prover's, which is an extra."""


def register_integer(
    registry: ModelRegistry,
    name: str,
    provable: bytes,
    weights: bytes,
    *,
    commitment_holds: CheckCommitment,
    hiding_commitment: Path | None = None,
    parent: Digest | None = None,
    licence: str | None = None,
    replace: bool = False,
) -> RegisteredModel:
    """Register an integer model.

    Args:
        registry: where to.
        name: the name that requests will use.
        provable: the provable model's bytes.
        weights: the weights file.
        commitment_holds: commits to the weights again and compares.
        hiding_commitment: the stored commitment of a model that hides its weights. It is linked,
            not copied: its openings are counted beside it.
        parent: `model_id` of the model that it was made from.
        licence: SPDX identifier of the weights' licence.
        replace: let `name` stand for this model even if it stood for another.

    Raises:
        MalformedError: `malformed-model`, `malformed-cbor`, `too-large`.
        ModelError: `model-changed` where the commitment is of other weights, `model-exists`.
        RequestError: `invalid-request` for a name that is not allowed.
        StoreError: `store-failed`.
    """
    model = ProvableModel.decode(provable)
    require_modest(model.graph)  # What no verifier would take is not sold as provable.
    arrays = decode_weights(model.graph, weights)
    if not commitment_holds(model, arrays):
        raise ModelError(
            "the commitment of the provable model is of other weights", reason=Reason.MODEL_CHANGED
        )
    if hiding_commitment is not None:
        _link(registry.path / COMMITMENTS_FOLDER, model.digest.hex(), hiding_commitment)
    digests = [
        TensorDigest(
            f"weight.{number}",
            f"I{8 * array.itemsize}",
            tuple(array.shape),
            sha256(array.tobytes()),
        )
        for number, array in enumerate(arrays)
    ]
    with registry.writing() as writer:
        main, other = writer.store_bytes(provable), writer.store_bytes(weights)
        manifest = ModelManifest(
            model_format=ModelFormat.INTEGER,
            identity=ModelIdentity.LOCAL_WEIGHTS,
            engine=ENGINES[ModelFormat.INTEGER],
            files=(
                FileEntry(PROVABLE_FILE, FileRole.MODEL, main.size, main.digest),
                FileEntry(WEIGHTS_FILE, FileRole.EXTERNAL_DATA, other.size, other.digest),
            ),
            tensors=TensorSummary(
                root=tensor_root(digests),
                count=len(digests),
                parameters=sum(digest.elements for digest in digests),
                types=_count([digest.element_type for digest in digests]),
            ),
            parent=parent,
            determinism=DeterminismClaim(Determinism.EXACT),
            prover_commitment=model.digest,
            provenance=Provenance(main.digest, None, None, licence),
        )
        return writer.add(name, manifest, replace=replace)


def _link(folder: Path, name: str, target: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(target.resolve(strict=True))
    except OSError as error:
        raise StoreError(
            f"cannot link the commitment: {error.strerror}", reason=Reason.STORE_FAILED
        ) from error


def _count(words: Sequence[str]) -> dict[str, int]:
    return {word: words.count(word) for word in sorted(set(words))}
