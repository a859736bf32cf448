"""`verispect services`: publish what a service puts around a model, and say who may see it."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from verispect.cli.files import read_file, to_json, write_file
from verispect.cli.outcome import EXIT_DONE, plain
from verispect.cli.places import default_home
from verispect.core.errors import ModelError, Reason, RequestError

if TYPE_CHECKING:
    from verispect.core.commitments import Part
    from verispect.ledger.history import ServiceRegistry, ServiceVersion

_AUDIENCES: Final = ("nobody", "callers", "everyone")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser(
        "services", help="publish versions of services: a model with a system prompt and tools"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    home = default_home()
    for action, described in (("add", "publish a new service"), ("update", "publish a version")):
        publish = actions.add_parser(action, help=described)
        publish.add_argument("name", help="callers ask for service:NAME")
        publish.add_argument("--model", required=action == "add", help="a registered model's name")
        publish.add_argument("--system-prompt", type=Path, metavar="FILE", help="its text")
        publish.add_argument("--tools", type=Path, metavar="FILE", help="a JSON array of tools")
        publish.add_argument(
            "--disclose", choices=_AUDIENCES, default="callers", help="to whom the text is shown"
        )
        publish.add_argument("--keys", type=Path, default=home / "keys", help="key directory")
        publish.add_argument(
            "--registry", type=Path, default=home / "models", help="model registry"
        )
    actions.add_parser("list", help="list the services")
    show = actions.add_parser("show", help="print the versions of a service, texts included")
    disclose = actions.add_parser("disclose", help="change who may see the text of a version")
    disclose.add_argument("--to", choices=_AUDIENCES, help="from now on")
    disclose.add_argument("--out", type=Path, help="write its openings, to be given to somebody")
    for action_parser in (show, disclose):
        action_parser.add_argument("name", help="the service")
    disclose.add_argument("number", type=int, help="the version")
    for action_parser in actions.choices.values():
        action_parser.add_argument(
            "--state", type=Path, default=home / "state", help="the gateway's state directory"
        )


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    from verispect.ledger.history import SERVICES_FILE, ServiceRegistry

    registry = ServiceRegistry(arguments.state / SERVICES_FILE)
    try:
        if arguments.action in ("add", "update"):
            _publish(registry, arguments)
        elif arguments.action == "list":
            for name in registry.names():
                last = registry.versions(name)[-1]
                print(f"{name}  version {last.number}  {plain(last.model)}  {last.digest.hex()}")
        elif arguments.action == "show":
            versions = _versions(registry, arguments.name)
            print(to_json([_view(version) for version in versions]))
        else:
            _disclose(registry, arguments)
    finally:
        registry.close()
    return EXIT_DONE


def _publish(registry: ServiceRegistry, arguments: argparse.Namespace) -> None:
    from verispect.attesters.signer import Issuer
    from verispect.ledger.history import Audience, ServiceDraft
    from verispect.models.registry import ModelRegistry

    earlier = registry.versions(arguments.name)
    model = arguments.model or (earlier[-1].model if earlier else None)
    if model is None:
        raise ModelError(f"there is no service {arguments.name}", reason=Reason.MODEL_NOT_FOUND)
    draft = ServiceDraft(
        name=arguments.name,
        model=model,
        model_id=ModelRegistry(arguments.registry).resolve(model).model_id,
        contents=_contents(arguments.system_prompt, arguments.tools),
        audience=Audience(arguments.disclose),
    )
    version = registry.publish(
        draft,
        issuer=Issuer.load(arguments.keys),
        now=time.time_ns() // 1_000_000,
        is_new=arguments.action == "add",
    )
    print(f"published version {version.number} of {version.name}: {version.digest.hex()}")


def _contents(prompt: Path | None, tools: Path | None) -> dict[Part, Any]:
    """Return system prompt and tools as an ordinary request would have them committed."""
    from verispect.core.commitments import Part
    from verispect.gateway.chat_shapes import ChatRequest
    from verispect.gateway.chat_wire import read_conversation
    from verispect.gateway.limits import Limits

    messages: list[dict[str, Any]] = [{"role": "user", "content": "-"}]
    try:
        if prompt is not None:
            text = read_file(prompt).decode("utf-8")
            messages.insert(0, {"role": "system", "content": text.rstrip("\n")})
        definitions = None if tools is None else json.loads(read_file(tools).decode("utf-8"))
    except ValueError as error:
        raise RequestError("the prompt is not UTF-8, or the tools are not JSON") from error
    if definitions is not None and not isinstance(definitions, list):
        raise RequestError("expected a JSON array of tools", parameter="tools")
    body = ChatRequest(model="-", messages=messages, tools=definitions)
    chat = read_conversation(body, Limits())
    contents: dict[Part, Any] = {}
    if chat.system_prompt is not None:
        contents[Part.SYSTEM_PROMPT] = chat.system_prompt
    if chat.tools:
        contents[Part.TOOLS] = {
            "tools": list(chat.tools),
            "tool_choice": chat.tool_choice,
            "parallel_tool_calls": chat.parallel_tool_calls,
        }
    return contents


def _disclose(registry: ServiceRegistry, arguments: argparse.Namespace) -> None:
    from verispect.core.commitments import encode_openings
    from verispect.ledger.history import Audience

    if arguments.to is None and arguments.out is None:
        raise RequestError("expected --to or --out")
    if arguments.out is not None:
        versions = _versions(registry, arguments.name)
        if not 1 <= arguments.number <= len(versions):
            raise ModelError("there is no such version", reason=Reason.MODEL_NOT_FOUND)
        write_file(arguments.out, encode_openings(versions[arguments.number - 1].openings))
        print(f"wrote {arguments.out}")
    if arguments.to is not None:
        registry.disclose(arguments.name, arguments.number, Audience(arguments.to))
        print(f"version {arguments.number} of {arguments.name}: {arguments.to}")


def _versions(registry: ServiceRegistry, name: str) -> list[ServiceVersion]:
    versions = list(registry.versions(name))
    if not versions:
        raise ModelError(f"there is no service {plain(name)}", reason=Reason.MODEL_NOT_FOUND)
    return versions


def _view(version: ServiceVersion) -> dict[str, Any]:
    return {
        "service": version.name,
        "version": version.number,
        "digest": version.digest.hex(),
        "publishedAt": version.published.published_at,
        "model": version.model,
        "audience": version.audience.value,
        "contents": {part.label: each.content() for part, each in version.openings.items()},
    }
