"""A facilitator that lies, hangs, fails after settling or settles twice: for tests of who is paid.

It stands in the place of the network (an `httpx` transport), in front of a facilitator that works,
and betrays on purpose in one named way. `settled` counts how often it really settled.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

import httpx

from verispect.payments.chain.facilitator_service import Facilitator

_NO_TRANSACTION = "0x" + "ab" * 32


class Treachery(StrEnum):
    """The one way in which it betrays."""

    NONE = "none"
    LIES_THAT_IT_SETTLED = "lies-that-it-settled"
    LIES_THAT_IT_DID_NOT = "lies-that-it-did-not"
    HANGS = "hangs"
    TIMES_OUT_AFTER_SETTLING = "times-out-after-settling"
    ANSWERS_202 = "answers-202"
    SETTLES_TWICE = "settles-twice"
    CUTS_ITS_ANSWER = "cuts-its-answer"
    FAILS_AFTER_SETTLING = "fails-after-settling"
    ANSWERS_ENDLESSLY = "answers-endlessly"


class HostileFacilitator(httpx.BaseTransport):
    """The transport.

    Args:
        inner: who works, where it does.
        treachery: may be changed between requests.
    """

    def __init__(self, inner: Facilitator, treachery: Treachery = Treachery.NONE) -> None:
        self._inner = inner
        self.treachery = treachery
        self.settled = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request, or not."""
        if request.url.path.endswith("/supported"):
            return httpx.Response(200, json=self._inner.supported())
        body = json.loads(request.read())
        parts = body["paymentPayload"], body["paymentRequirements"]
        if request.url.path.endswith("/verify"):
            return httpx.Response(200, json=self._inner.verify(*parts))
        return self._settle(request, *parts)

    def _settle(
        self, request: httpx.Request, payload: dict[str, Any], requirements: dict[str, Any]
    ) -> httpx.Response:
        lie = {"success": True, "transaction": _NO_TRANSACTION, "network": requirements["network"]}
        match self.treachery:
            case Treachery.LIES_THAT_IT_SETTLED:
                return httpx.Response(200, json=lie)
            case Treachery.HANGS:
                raise httpx.ReadTimeout("no answer", request=request)
            case Treachery.ANSWERS_202:
                return httpx.Response(202, json={"paymentJob": "1"})
            case Treachery.ANSWERS_ENDLESSLY:
                return httpx.Response(200, content=b" " * (1 << 20))
        answer = self._really_settle(payload, requirements)
        match self.treachery:
            case Treachery.LIES_THAT_IT_DID_NOT:
                return httpx.Response(200, json={**answer, "success": False, "transaction": ""})
            case Treachery.TIMES_OUT_AFTER_SETTLING:
                raise httpx.ReadTimeout("no answer", request=request)
            case Treachery.SETTLES_TWICE:
                self._really_settle(payload, requirements)
            case Treachery.CUTS_ITS_ANSWER:
                return httpx.Response(200, content=json.dumps(answer).encode()[:-9])
            case Treachery.FAILS_AFTER_SETTLING:
                return httpx.Response(503, json={"error": "busy"})
        return httpx.Response(200, json=answer)

    def _really_settle(
        self, payload: dict[str, Any], requirements: dict[str, Any]
    ) -> dict[str, Any]:
        answer = self._inner.settle(payload, requirements)
        self.settled += answer.get("success") is True
        return answer
