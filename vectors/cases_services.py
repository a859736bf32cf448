# ruff: noqa: INP001
"""The cases of receipts that name a version of a service, judged with its history and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cases_formats import Case
from material import GOOD, ISSUER, NOW, OPENINGS, SIGNED_AT, UNLISTED, model, receipt, trusted_root

from verispect.appraisal.policy import SIGNED
from verispect.appraisal.service_history import ServiceHistory
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.core.commitments import Part
from verispect.core.encoding import to_base64url
from verispect.core.envelope import SignedEnvelope, sign_envelopes
from verispect.core.statement import ServiceBinding
from verispect.tlog.publications import PROMPT_VERSION_TYPE, PromptVersion

PUBLISHED = PromptVersion(
    "support",
    1,
    SIGNED_AT - 5000,
    {
        part: OPENINGS[part].commitment()
        for part in (Part.SYSTEM_PROMPT, Part.TOOLS)
        if part in OPENINGS
    },
    model_id=model().model_id,
)


def services() -> Iterator[Case]:
    """Yield the cases of services."""
    first = _signed(PUBLISHED)
    named = ServiceBinding("support", 1, first.digest())
    asked = receipt(requested_model="service:support", service=named)
    history = _history(first)
    yield _case("service", "as published", "verified", None, asked, history)
    yield _case("service-without-history", "nothing to compare", "verified", None, asked)
    yield _case(
        "service-unnamed",
        "a service was asked for, and no version is named",
        "refused",
        "service-unlogged",
        receipt(requested_model="service:support"),
        history,
    )
    yield _case(
        "service-not-published",
        "the history lacks the version",
        "refused",
        "service-unlogged",
        asked,
        _history(),
    )
    yield _case(
        "service-not-asked-for",
        "a service is named that nobody asked for",
        "refused",
        "service-changed",
        receipt(service=named),
        history,
    )
    for name, description, published in (
        ("model", "another model ran", replace(PUBLISHED, model_id=first.digest())),
        (
            "prompt",
            "another system prompt was used",
            replace(PUBLISHED, commitments={Part.SYSTEM_PROMPT: first.digest()}),
        ),
        ("number", "the version is another", replace(PUBLISHED, number=2, previous=first.digest())),
    ):
        other = _signed(published)
        data = receipt(
            requested_model="service:support",
            service=ServiceBinding("support", 1, other.digest()),
        )
        yield _case(
            f"service-other-{name}",
            description,
            "refused",
            "service-changed",
            data,
            _history(other),
        )
    yield _case(
        "service-history-of-nobody",
        "no trusted issuer signed the version",
        "refused",
        "key-unknown",
        asked,
        _document(_signed(PUBLISHED, key=UNLISTED)),
    )
    yield _case(
        "service-history-malformed",
        "the file is no history",
        "malformed",
        "malformed-leaf",
        asked,
        "{}",
    )


def _signed(published: PromptVersion, key: Any = GOOD) -> SignedEnvelope:
    return sign_envelopes(
        [(published.encode(), published.service)],
        content_type=PROMPT_VERSION_TYPE,
        issuer=ISSUER,
        signer=key,
    )[0]


def _history(*versions: SignedEnvelope) -> str:
    root = TrustedRoot.from_json(trusted_root().encode())
    return (
        ServiceHistory.from_json(_document(*versions).encode(), root.issuer_key).to_json().decode()
    )


def _document(*versions: SignedEnvelope) -> str:
    rows = [
        {"leafIndex": index, "envelope": to_base64url(each.encode())}
        for index, each in enumerate(versions)
    ]
    return json.dumps({"verispectHistory": 1, "versions": rows})


def _case(
    name: str,
    description: str,
    result: str,
    reason: str | None,
    data: bytes,
    history: str | None = None,
) -> Case:
    inputs: dict[str, Any] = {
        "receipt": data.hex(),
        "trustedRoot": trusted_root(),
        "policy": SIGNED.to_toml(),
        "now": NOW,
    }
    return (name, description, inputs | ({"history": history} if history else {}), result, reason)
