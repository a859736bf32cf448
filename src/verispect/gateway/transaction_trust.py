"""What an operator trusts of attestation when it judges the parts of its own transactions.

A file says so; without one an emulated enclave of this very server is trusted as what it is, so
that the path can be shown. Hardware is never trusted because it is one's own: its reference values
are somebody's decision.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from verispect.appraisal.attestation_trust import AttestationTrust
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.development_enclave import DevelopmentEnclave
from verispect.core.errors import Reason, StoreError

_DEVELOPMENT: Final = "development:"


def own_trust(path: str | None, attester: str | None) -> TrustedRoot | None:
    """Return what the operator trusts beside itself.

    Args:
        path: a trusted root file of its own; only attestation, logs and nodes are taken of it.
        attester: the attester of this server, once it was started.

    Raises:
        StoreError: `store-failed`.
        MalformedError: `malformed-trusted-root`.
    """
    if path is not None:
        try:
            return TrustedRoot.from_json(Path(path).read_bytes())
        except OSError as error:
            raise StoreError(
                f"cannot read {path}: {error.strerror}", reason=Reason.STORE_FAILED
            ) from error
    if attester is None or not attester.startswith(_DEVELOPMENT):
        return None
    enclave = DevelopmentEnclave.load(Path(attester.removeprefix(_DEVELOPMENT)))
    anchor = enclave.anchor()
    registers = {name: frozenset({value}) for name, value in enclave.registers().items()}
    trust = AttestationTrust(anchors=(anchor,), measurements={anchor.technology: registers})
    return TrustedRoot([], attestation=trust)
