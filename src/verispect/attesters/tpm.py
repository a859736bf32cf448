"""TPM 2.0: quotes by way of the command line of tpm2-tools.

The attestation key is made once, below the endorsement key, and kept in a directory as the two
blobs that only this TPM can load. A quote's one free field commits to the guest's value and to
the verifier's nonce (`verispect.evidence.tpm.qualifying_data`).

A TPM without a resource manager has room for three objects: contexts are flushed after each, so
the TPM must be this process's alone, or be reached through the kernel's resource manager
(`device:/dev/tpmrm0`). This module refuses to judge what the TPM says, to hand on a quote of
another value, and to go on where a command fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from verispect.attesters.interface import AttestationEvidence
from verispect.core.encoding import encode
from verispect.core.errors import AttesterError, Error, Reason, RequestError
from verispect.evidence.tpm import TECHNOLOGY, Credential, TpmEvidence, files_of, qualifying_data
from verispect.evidence.tpm.structures import PublicArea, parse_public, parse_quote

DEVICE_TCTI: Final = "device:/dev/tpmrm0"
DEFAULT_REGISTERS: Final = (0, 1, 2, 3, 4, 5, 6, 7)
MAX_NONCE_BYTES: Final = 1024
COMMAND_TIMEOUT_SECONDS: Final = 60.0
EK_CERTIFICATE_INDEX: Final = "0x1c00002"
"""NV index of the RSA-2048 endorsement certificate (TCG EK credential profile)."""

_CREDENTIAL_MAGIC: Final = 0xBADCC0DE
_CREDENTIAL_VERSION: Final = 1
_PUBLIC, _PRIVATE, _EK_PUBLIC = "ak.pub", "ak.priv", "ek.pub"
_DER_SEQUENCE_LONG: Final = b"\x30\x82"


class TpmAttester:
    """A TPM that this process may use; see the module.

    Args:
        directory: where the attestation key's blobs are kept; made where it does not exist.
        tcti: how to reach the TPM, for example `swtpm:host=127.0.0.1,port=2321`.
        registers: the PCRs of the SHA-256 bank to quote.
        endorsement_issuers: the issuers of the endorsement certificate, DER, root last; kept with
            the evidence.
    """

    def __init__(
        self,
        directory: Path,
        *,
        tcti: str = DEVICE_TCTI,
        registers: Sequence[int] = DEFAULT_REGISTERS,
        endorsement_issuers: Sequence[bytes] = (),
    ) -> None:
        self._directory = directory
        self._tcti = tcti
        self._selection = "sha256:" + ",".join(str(index) for index in sorted(set(registers)))
        self._issuers = tuple(endorsement_issuers)
        self._lock = threading.Lock()
        self._certificates: tuple[bytes, ...] | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return "tpm2-tools"

    @property
    def technology(self) -> str:
        """The technology of its evidence."""
        return TECHNOLOGY

    def attestation_key(self) -> PublicArea:
        """Return the attestation key's public area; makes the key where there is none yet.

        Raises:
            AttesterError: `attester-unavailable`.
        """
        with self._lock, tempfile.TemporaryDirectory() as scratch:
            self._load(Path(scratch))
            return self._public_area(_PUBLIC)

    def endorsement_key(self) -> PublicArea:
        """Return the endorsement key's public area.

        Raises:
            AttesterError: `attester-unavailable`.
        """
        with self._lock, tempfile.TemporaryDirectory() as scratch:
            self._load(Path(scratch))
            return self._public_area(_EK_PUBLIC)

    def endorsement_path(self) -> tuple[bytes, ...]:
        """Return the endorsement certificate from the TPM and the issuers given; none without one.

        Raises:
            AttesterError: `attester-unavailable` where the TPM cannot be asked.
        """
        with self._lock, tempfile.TemporaryDirectory() as scratch:
            return self._read_certificates(Path(scratch))

    def attest(self, report_data: bytes, nonce: bytes | None) -> AttestationEvidence:
        """Return a quote whose qualifying data commits to `report_data` and `nonce`.

        Raises:
            AttesterError: `attester-unavailable`, also where the TPM answers another question.
            RequestError: `invalid-request` for a nonce of more than 1,024 bytes.
        """
        if nonce is not None and len(nonce) > MAX_NONCE_BYTES:
            raise RequestError(f"a nonce has at most {MAX_NONCE_BYTES} bytes", parameter="nonce")
        wanted = qualifying_data(report_data, nonce)
        with self._lock, tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            certificates = self._read_certificates(scratch)
            context = self._load(scratch)
            message, signature, values = (scratch / part for part in ("msg", "sig", "pcrs"))
            # fmt: off
            self._run("quote", "-c", context, "-l", self._selection, "-q", wanted.hex(),
                      "-m", message, "-s", signature, "-o", values, "-F", "values", "-g", "sha256")
            # fmt: on
            self._flush()
            evidence = TpmEvidence(
                quote=message.read_bytes(),
                signature=signature.read_bytes(),
                ak=(self._directory / _PUBLIC).read_bytes(),
                pcrs=values.read_bytes(),
                ek_certificates=certificates,
            )
        _check_answer(evidence, wanted)
        body, endorsements = files_of(evidence)
        return AttestationEvidence(TECHNOLOGY, encode(body), encode(endorsements))

    def activate(self, credential: Credential) -> bytes:
        """Return the secret of a credential made for this TPM's keys.

        Raises:
            AttesterError: `attester-unavailable` where the credential is not for them.
        """
        with self._lock, tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            context = self._load(scratch)
            made, found = scratch / "credential", scratch / "secret"
            made.write_bytes(_credential_file(credential))
            session = self._endorsement_session(scratch)
            # fmt: off
            self._run("activatecredential", "-c", context, "-C", scratch / "ek.ctx", "-i", made,
                      "-o", found, "-P", f"session:{session}")
            # fmt: on
            self._run("flushcontext", session)
            self._flush()
            return found.read_bytes()

    def _load(self, scratch: Path) -> Path:
        """Load the attestation key, made before where there is none, and return its context."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        endorsement, context = scratch / "ek.ctx", scratch / "ak.ctx"
        public, private = self._directory / _PUBLIC, self._directory / _PRIVATE
        self._run("createek", "-c", endorsement, "-G", "rsa", "-u", self._directory / _EK_PUBLIC)
        self._flush()
        if not (public.exists() and private.exists()):
            new_public, new_private = scratch / _PUBLIC, scratch / _PRIVATE
            # fmt: off
            self._run("createak", "-C", endorsement, "-c", context, "-G", "ecc", "-g", "sha256",
                      "-s", "ecdsa", "-u", new_public, "-r", new_private)
            # fmt: on
            self._flush()
            _keep(new_private, private)
            _keep(new_public, public)
        session = self._endorsement_session(scratch)
        # fmt: off
        self._run("load", "-C", endorsement, "-P", f"session:{session}", "-u", public,
                  "-r", private, "-c", context)
        # fmt: on
        self._run("flushcontext", session)
        self._flush()
        return context

    def _endorsement_session(self, scratch: Path) -> Path:
        """Open a session that satisfies the endorsement key's policy."""
        session = scratch / "session.ctx"
        self._run("startauthsession", "--policy-session", "-S", session)
        self._run("policysecret", "-S", session, "-c", "e")
        return session

    def _read_certificates(self, scratch: Path) -> tuple[bytes, ...]:
        if self._certificates is None:
            target = scratch / "ek.der"
            try:
                self._run("nvread", EK_CERTIFICATE_INDEX, "-C", "o", "-o", target)
                certificate = _first_der(target.read_bytes())
            except (AttesterError, OSError):
                # A TPM without a certificate can still quote; its key must be anchored itself.
                certificate = b""
            self._certificates = (certificate, *self._issuers) if certificate else ()
        return self._certificates

    def _public_area(self, name: str) -> PublicArea:
        try:
            return parse_public((self._directory / name).read_bytes())
        except (OSError, Error) as error:
            raise _unavailable(f"{name} cannot be read") from error

    def _flush(self) -> None:
        self._run("flushcontext", "-t")

    def _run(self, tool: str, *arguments: str | Path) -> None:
        program = shutil.which(f"tpm2_{tool}")
        if program is None:
            raise _unavailable("tpm2-tools are not installed")
        environment = {**os.environ, "TPM2TOOLS_TCTI": self._tcti, "TSS2_LOG": "all+NONE"}
        try:
            finished = subprocess.run(
                [program, *map(str, arguments)],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=COMMAND_TIMEOUT_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _unavailable(f"tpm2_{tool} did not finish") from error
        if finished.returncode != 0:
            raise _unavailable(f"tpm2_{tool} failed with status {finished.returncode}")


def _check_answer(evidence: TpmEvidence, wanted: bytes) -> None:
    try:
        answered = parse_quote(evidence.quote).extra_data
    except Error as error:
        raise _unavailable("the TPM returned no quote") from error
    if answered != wanted:
        raise _unavailable("the TPM quoted another value")


def _credential_file(credential: Credential) -> bytes:
    """Return the file that tpm2_activatecredential reads."""
    parts = (credential.identity_object, credential.encrypted_secret)
    sized = b"".join(len(part).to_bytes(2, "big") + part for part in parts)
    header = (_CREDENTIAL_MAGIC, _CREDENTIAL_VERSION)
    return b"".join(number.to_bytes(4, "big") for number in header) + sized


def _first_der(data: bytes) -> bytes:
    """Return the certificate at the start of an NV index, whose rest is padding."""
    if not data.startswith(_DER_SEQUENCE_LONG):
        return b""
    return data[: 4 + int.from_bytes(data[2:4], "big")]


def _keep(made: Path, place: Path) -> None:
    """Move a blob to its place at once, so that a crash leaves all of it or nothing."""
    partial = place.with_suffix(".new")
    with partial.open("wb") as file:
        file.write(made.read_bytes())
        file.flush()
        os.fsync(file.fileno())
    partial.replace(place)


def _unavailable(detail: str) -> AttesterError:
    return AttesterError(detail, reason=Reason.ATTESTER_UNAVAILABLE)
