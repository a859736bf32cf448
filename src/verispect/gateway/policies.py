"""The policies behind the digests in statements: `GET /v1/policies/{digest}`, and what is on offer.

A statement names the policy that was required by its digest only. Here anyone fetches the text and
checks it: the digest is that of the policy's canonical form, whatever it is called. Policies hold
no words of a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Final

import msgspec

from verispect.appraisal.policy import PRESETS, AssurancePolicy, expand
from verispect.core.encoding import DIGEST_BYTES, Digest, decode
from verispect.core.errors import Error, MalformedError, Reason
from verispect.gateway.assurance import OWN_POLICY
from verispect.gateway.errors import HttpError
from verispect.gateway.http import HttpRequest, HttpResponse
from verispect.gateway.published import PublishedRecords
from verispect.gateway.state import GatewayState

_PREFIX: Final = "/v1/policies/"
_HEX: Final = frozenset("0123456789abcdef")
_IMMUTABLE: Final = "public, max-age=31536000, immutable"


def sums_of(available: Mapping[str, AssurancePolicy]) -> dict[str, AssurancePolicy]:
    """Return the sums of available presets that say more than each of them, by name."""
    words = [word for word in PRESETS if word in available]
    sums: dict[str, AssurancePolicy] = {}
    for count in range(2, len(words) + 1):
        for chosen in combinations(words, count):
            try:
                policy = expand("+".join(chosen))
            except MalformedError:
                continue  # They contradict each other.
            known = {each.digest() for each in (*available.values(), *sums.values())}
            if policy.digest() not in known:
                sums[policy.name] = policy
    return sums


async def retrieve_policy(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `GET /v1/policies/{digest}` with the policy's JSON form."""
    text = request.path.removeprefix(_PREFIX)
    policy = None
    if len(text) == 2 * DIGEST_BYTES and _HEX.issuperset(text):
        policy = find_policy(Digest(bytes.fromhex(text)), state.recorder.published)
    if policy is None:
        raise HttpError("no such policy", status=404, reason=Reason.RECEIPT_NOT_FOUND)
    body = msgspec.json.encode(policy.to_json())
    return HttpResponse(200, body, headers=[("cache-control", _IMMUTABLE)])


def find_policy(digest: Digest, published: PublishedRecords) -> AssurancePolicy | None:
    """Return the policy with this digest: a preset, a sum of presets, or one that was required."""
    for policy in (*PRESETS.values(), *sums_of(PRESETS).values()):
        if policy.digest() == digest:
            return policy
    record = published.read(digest)
    if record is None:
        return None
    try:
        policy = AssurancePolicy.from_document({"name": OWN_POLICY, **decode(record)})
    except (Error, TypeError):
        return None  # Another record: a manifest, an engine.
    return policy if policy.digest() == digest else None
