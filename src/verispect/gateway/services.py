"""Services as the gateway serves them: `service:NAME` instead of a model's name.

The current version of a service puts its system prompt in front of the conversation and gives it
its tools; a caller's own are refused, never merged and never dropped. Where this server keeps a
log, a version is used only once the log has its leaf; until then the one before it answers.

`GET /v1/services` and `GET /v1/services/{name}` show what was published, and of the texts those
that the operator discloses to everyone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from verispect.appraisal.service_history import SERVICE_PREFIX
from verispect.core.commitments import Part, encode_openings
from verispect.core.encoding import Digest, to_base64url
from verispect.core.errors import ModelError, Reason, RequestError
from verispect.core.statement import ServiceBinding
from verispect.engines.interface import ChatInput
from verispect.gateway.errors import HttpError
from verispect.gateway.http import HttpRequest, HttpResponse
from verispect.gateway.published import PublishedRecords
from verispect.ledger.history import Audience, ServiceRegistry, ServiceVersion

if TYPE_CHECKING:
    from verispect.gateway.serving import ModelPool, ServedModel
    from verispect.gateway.state import GatewayState

_ROUTE: Final = "/v1/services/"

HIDDEN_PARTS: Final = frozenset({Part.SYSTEM_PROMPT, Part.TOOLS, Part.EFFECTIVE_INPUT})
"""What shows the text of a version that is disclosed to nobody."""

IsLogged = Callable[[Digest], Awaitable[bool]]


class Services:
    """The services of one gateway.

    Args:
        registry: where they are kept; other processes may publish into it.
        published: where callers find the envelope of the version that their receipt names.
        is_logged: tells whether the log has a leaf; `None` where this server keeps no log.
    """

    def __init__(
        self,
        registry: ServiceRegistry,
        published: PublishedRecords,
        *,
        is_logged: IsLogged | None = None,
    ) -> None:
        self._registry = registry
        self._published = published
        self._is_logged = is_logged
        self._mark: int | None = None
        self._versions: dict[str, list[ServiceVersion]] = {}
        self._usable: set[Digest] = set()

    def names(self) -> list[str]:
        """Return every service's name, sorted."""
        self._refresh()
        return list(self._versions)

    def versions(self, name: str) -> list[ServiceVersion]:
        """Return all versions, oldest first.

        Raises:
            ModelError: `model-not-found`.
        """
        self._refresh()
        if name not in self._versions:
            raise ModelError("no service of this name", reason=Reason.MODEL_NOT_FOUND)
        return self._versions[name]

    async def current(self, name: str) -> ServiceVersion:
        """Return the latest version that may be used.

        Raises:
            ModelError: `model-not-found`.
            HttpError: 503 `leaf-pending` where the first version is not in the log yet.
        """
        for version in reversed(self.versions(name)):
            if version.digest not in self._usable:
                if self._is_logged is not None and not await self._is_logged(version.leaf_hash):
                    continue
                self._published.publish(version.envelope.encode())
                self._usable.add(version.digest)
            return version
        raise HttpError("the log does not have it yet", status=503, reason=Reason.LEAF_PENDING)

    def audience(self, name: str, number: int) -> Audience:
        """Return who may see the text of a version; nobody may of an unknown one."""
        self._refresh()
        for version in self._versions.get(name, []):
            if version.number == number:
                return version.audience
        return Audience.NOBODY

    def _refresh(self) -> None:
        mark = self._registry.mark()
        if mark != self._mark:
            self._versions = {
                name: list(self._registry.versions(name)) for name in self._registry.names()
            }
            self._mark = mark

    def close(self) -> None:
        """Let go of the registry."""
        self._registry.close()


async def find_served(
    state: GatewayState, request: HttpRequest, name: str
) -> tuple[ServedModel, ServiceVersion | None]:
    """Return the model that answers for `name`, and the service's version where it is one's.

    Raises:
        ModelError: `model-not-found`; `model-changed` where the model is no longer the one that
            the version was published with.
        RequestError: `invalid-request`.
        HttpError: as `Services.current`.
    """
    pool: ModelPool = state.pool
    if not name.startswith(SERVICE_PREFIX):
        return pool.find(name), None
    if state.services is None:
        raise ModelError("this server has no services", reason=Reason.MODEL_NOT_FOUND)
    version = await state.services.current(name.removeprefix(SERVICE_PREFIX))
    if request.confidential is not None and version.audience is Audience.NOBODY:
        raise RequestError(
            "the openings of an encrypted request are the caller's alone, and this service does"
            " not show its text to callers",
            parameter="model",
        )
    served = pool.find(version.model)
    if served.model_id != version.published.model_id:
        raise ModelError(
            "the model of this service was changed, and no version says so",
            reason=Reason.MODEL_CHANGED,
        )
    return served, version


def place(chat: ChatInput, version: ServiceVersion | None) -> ChatInput:
    """Return the conversation with the service's system prompt and tools.

    Raises:
        RequestError: the caller sent its own.
    """
    if version is None:
        return chat
    if chat.system_prompt is not None:
        raise RequestError(
            "a service has its own system prompt: send no leading system message and no"
            " instructions",
            parameter="messages",
        )
    if chat.tools:
        raise RequestError("a service has its own tools, or none", parameter="tools")
    prompt = version.openings.get(Part.SYSTEM_PROMPT)
    tools = version.openings.get(Part.TOOLS)
    placed = replace(chat, system_prompt=None if prompt is None else prompt.content())
    return placed if tools is None else replace(placed, **tools.content())


def binding_of(version: ServiceVersion) -> ServiceBinding:
    """Return what a statement says of the version that was used."""
    return ServiceBinding(version.name, version.number, version.digest)


def model_members(state: GatewayState) -> list[dict[str, Any]]:
    """Return the services as entries of `/v1/models`."""
    if state.services is None:
        return []
    members = []
    for name in state.services.names():
        latest = state.services.versions(name)[-1]
        members.append(
            {
                "id": SERVICE_PREFIX + name,
                "object": "model",
                "created": latest.published.published_at // 1000,
                "owned_by": state.recorder.issuer.name,
                "verispect": {"kind": "service", "model": latest.model},
            }
        )
    return members


async def list_services(state: GatewayState, request: HttpRequest) -> HttpResponse:  # noqa: ARG001
    """Answer `GET /v1/services`: every service with its latest version."""
    services = state.services
    names = [] if services is None else services.names()
    rows = [
        _view(services.versions(name)[-1], disclosed=False)
        for name in names
        if services is not None
    ]
    return HttpResponse(200, msgspec.json.encode({"services": rows}))


async def retrieve_service(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `GET /v1/services/{name}`: all versions, with the texts disclosed to everyone.

    Raises:
        ModelError: `model-not-found`, which is 404.
    """
    if state.services is None:
        raise ModelError("this server has no services", reason=Reason.MODEL_NOT_FOUND)
    versions = state.services.versions(request.path.removeprefix(_ROUTE))
    document = {
        "service": versions[0].name,
        "versions": [_view(version, disclosed=True) for version in versions],
    }
    return HttpResponse(200, msgspec.json.encode(document), headers=[("cache-control", "no-cache")])


def _view(version: ServiceVersion, *, disclosed: bool) -> dict[str, Any]:
    view: dict[str, Any] = {
        "service": version.name,
        "version": version.number,
        "digest": version.digest.hex(),
        "publishedAt": version.published.published_at,
        "model": version.model,
        "modelId": version.published.model_id.hex() if version.published.model_id else None,
        "audience": version.audience.value,
        "commitments": {
            part.label: value.hex() for part, value in version.published.commitments.items()
        },
    }
    if disclosed:
        view["envelope"] = to_base64url(version.envelope.encode())
        if version.audience is Audience.EVERYONE:
            view["openings"] = to_base64url(encode_openings(version.openings))
    return view
