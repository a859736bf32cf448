"""`GET /v1/advise`: what this server really delivers for a model, and what it recommends.

Every figure is from this server's own history. Numbers that are none, words that nobody knows and
fields that do not exist are refused before anything is looked up (spec/advice.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from verispect.appraisal.policy import AUDITED, PROVEN, SIGNED, AssurancePolicy
from verispect.appraisal.requirement_form import MAX_SECONDS
from verispect.appraisal.stakes import stakes_rule
from verispect.core.errors import Error, Reason, RequestError
from verispect.core.statement import ModelIdentity
from verispect.engines.interface import Lane
from verispect.evidence.interface import EvidenceAppraisal
from verispect.gateway.advice import (
    ADVICE_VERSION,
    Option,
    Wishes,
    claims_of,
    recommend,
    reexecuted_only,
)
from verispect.gateway.assurance import OWN_POLICY
from verispect.gateway.http import HttpRequest, HttpResponse
from verispect.gateway.policies import sums_of
from verispect.gateway.promising import choose_words
from verispect.gateway.services import find_served
from verispect.gateway.serving import ServedModel
from verispect.gateway.state import GatewayState
from verispect.payments.pricing import MAX_AMOUNT, MAX_TOKENS

MAX_LATENCY_MILLISECONDS: Final = MAX_SECONDS * 1000
USUAL_TOKENS: Final = 1000
"""Of input and of output, where the caller does not say how long its request is."""

_LIMITS: Final = {
    "latency_ms": MAX_LATENCY_MILLISECONDS,
    "assured_seconds": MAX_SECONDS,
    "budget": MAX_AMOUNT,
    "input_tokens": MAX_TOKENS,
    "output_tokens": MAX_TOKENS,
}
_FIELDS: Final = frozenset({"model", "stakes", "privacy", *_LIMITS})
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_PRIVACY: Final = {"none": False, "operator": True}


async def advise(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `GET /v1/advise`.

    Raises:
        RequestError: `invalid-request`.
        ModelError: `model-not-found`.
        StoreError: the history cannot be read just now.
    """
    query = request.query
    unknown = sorted(query.keys() - _FIELDS)
    if unknown:
        raise RequestError(f"expected fields among {', '.join(sorted(_FIELDS))}")
    for name in ("model", "stakes"):
        if not query.get(name):
            raise RequestError("this field is required", parameter=name)
    wishes = read_wishes(query)
    input_tokens, output_tokens = (
        _number(query, name, USUAL_TOKENS) for name in ("input_tokens", "output_tokens")
    )
    served, _ = await find_served(state, request, query["model"])
    sheet = None if state.payments is None else state.payments.sheet
    tokens = (input_tokens or 0, output_tokens or 0)
    options = await asyncio.to_thread(find_options, state, served, wishes.private, tokens)
    chosen, reason = recommend(options, wishes)
    recommendation = None
    if chosen is not None:
        recommendation = {"option": options.index(chosen), "assurance": chosen.assurance()}
    document: dict[str, Any] = {
        "version": ADVICE_VERSION,
        "model": query["model"],
        "model_id": served.model_id.hex(),
        "rule": wishes.rule.to_json(),
        "wishes": {
            **wishes.to_json(),
            "input_tokens": tokens[0],
            "output_tokens": tokens[1],
        },
        "asset": None if sheet is None else sheet.asset,
        "options": [option.to_json(wishes) for option in options],
        "recommendation": recommendation,
        "reason": reason,
    }
    headers = [("cache-control", "no-store")]
    return HttpResponse(200, msgspec.json.encode(document), headers=headers)


def read_wishes(query: Mapping[str, str]) -> Wishes:
    """Read what a caller wants.

    Raises:
        RequestError: `invalid-request`: unknown stakes or privacy, a number out of range.
    """
    private = _PRIVACY.get(query.get("privacy", "none"))
    if private is None:
        raise RequestError(f"expected {' or '.join(_PRIVACY)}", parameter="privacy")
    return Wishes(
        rule=stakes_rule(query["stakes"]),
        answer_milliseconds=_number(query, "latency_ms"),
        assured_seconds=_number(query, "assured_seconds"),
        budget=_number(query, "budget"),
        private=private,
    )


def _number(query: Mapping[str, str], name: str, usual: int | None = None) -> int | None:
    text = query.get(name)
    if text is None:
        return usual
    if not _NUMBER.fullmatch(text) or int(text) > _LIMITS[name]:
        raise RequestError(f"expected an integer of 0 to {_LIMITS[name]}", parameter=name)
    return int(text)


def find_options(
    state: GatewayState, served: ServedModel, private: bool, tokens: tuple[int, int]
) -> list[Option]:
    """Return what can be asked of a model; blocks.

    Args:
        state: of this server.
        served: the model.
        private: whether requests are to come encrypted.
        tokens: of input and of output, at most.

    Raises:
        StoreError: `store-failed`, `store-locked`.
    """
    encrypted = (
        private
        and state.confidential is not None
        and served.identity is ModelIdentity.LOCAL_WEIGHTS
    )
    lane = Lane.DETERMINISTIC if Lane.DETERMINISTIC in served.lanes else Lane.THROUGHPUT
    recorder = state.recorder
    available = {
        name: policy
        for name, policy in recorder.deliverable(served, confidential=encrypted).items()
        if served.identity in policy.model_identities
    }
    forecasts = recorder.forecasts(served, lane, confidential=encrypted)
    return [
        option
        for policy, words in _policies(available, forecasts, served)
        if (option := _option(state, served, policy, words, forecasts, encrypted, tokens))
    ]


def _policies(
    available: Mapping[str, AssurancePolicy],
    forecasts: Mapping[str, EvidenceAppraisal],
    served: ServedModel,
) -> list[tuple[AssurancePolicy, tuple[str, ...]]]:
    """Return every policy to consider, with the words whose evidence meets it."""
    named = (*available.values(), *sums_of(available).values())
    found = [(policy, _words(policy.name)) for policy in named]
    if AUDITED.name in forecasts:
        narrowed = reexecuted_only()
        # Not to be had where a table or the model's identity is in the way.
        with contextlib.suppress(RequestError):
            found.append((narrowed, choose_words(narrowed, forecasts, served.identity)))
    return found


def _words(name: str) -> tuple[str, ...]:
    return tuple(word for word in name.split("+") if word != SIGNED.name)


def _option(
    state: GatewayState,
    served: ServedModel,
    policy: AssurancePolicy,
    words: tuple[str, ...],
    forecasts: Mapping[str, EvidenceAppraisal],
    encrypted: bool,
    tokens: tuple[int, int],
) -> Option | None:
    """Return an option with its figures, none where it is not sold."""
    recorder = state.recorder
    own = policy.name == OWN_POLICY
    price = None
    if state.payments is not None:
        word = "+".join(words) or SIGNED.name if own else policy.name
        try:
            price = state.payments.sheet.quote(
                served.name, word, max_input_tokens=tokens[0], max_output_tokens=tokens[1]
            ).ceiling
        except Error as error:
            if error.reason is not Reason.PRICE_UNKNOWN:
                raise
            return None
    promised = {
        each.kind: -(-each.due_at // 1000)
        for each in recorder.promised(words, 0)
        if each.due_at is not None
    }
    if PROVEN.name in words and recorder.proving is not None:
        promised["proof"] = recorder.proving.seconds
    attested = next((word for word in words if word.startswith("attested")), None)
    vouched = None if attested is None else forecasts.get(attested)
    measured = state.measured
    return Option(
        policy=policy,
        words=words,
        claims=claims_of(words, forecasts),
        encrypted=encrypted and attested is not None,
        evidence_class=None if vouched is None else vouched.evidence_class,
        deterministic=own,
        development=recorder.issuer.trusted_key().development,
        price=price,
        promised=promised,
        answer=None if measured is None else measured.answers(served.model_id, policy.digest()),
        proofs=(
            measured.proofs(served.name) if measured is not None and PROVEN.name in words else None
        ),
    )
