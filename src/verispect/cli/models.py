"""`verispect models`: put models in the registry, list them, show them, qualify them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from verispect.cli.calibration import run_calibrate, show_calibration
from verispect.cli.files import read_file, to_json
from verispect.cli.places import default_home
from verispect.core.errors import MalformedError, Reason, RequestError, StoreError

if TYPE_CHECKING:
    from verispect.models.blobs import Progress
    from verispect.models.qualification import Qualification, Subject
    from verispect.models.registry import ModelRegistry
    from verispect.models.verified import RegisteredModel, VerifiedFiles

_PROGRESS_BYTES = 16 * 1024 * 1024


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser("models", help="add, list, show and qualify models")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="register a model")
    add.add_argument("--name", required=True, help="the name that requests will use")
    source = add.add_mutually_exclusive_group(required=True)
    source.add_argument("--file", type=Path, help="a GGUF or ONNX file")
    source.add_argument("--catalogue", metavar="NAME", help="a known model of an installed package")
    source.add_argument(
        "--integer", type=Path, metavar="DIR", help="a folder that `verispect proof import` wrote"
    )
    source.add_argument("--remote", metavar="URL", help="base address of an OpenAI-compatible API")
    add.add_argument("--upstream-model", help="with --remote: the name to ask it for")
    add.add_argument("--chat-template", type=Path, help="text that replaces the file's template")
    add.add_argument("--parent", help="with --integer: id of the model that it was made from")
    add.add_argument(
        "--licence", help="with --file or --integer: SPDX identifier, for the manifest"
    )
    add.add_argument("--replace", action="store_true", help="let the name stand for this model now")
    add.add_argument("--qualify", action="store_true", help="also find its determinism class")
    listing = actions.add_parser("list", help="list the registered models")
    show = actions.add_parser("show", help="show one model's manifest")
    show.add_argument("--check", action="store_true", help="hash its files, check the signature")
    qualify = actions.add_parser("qualify", help="run it and find its determinism class")
    calibrate = actions.add_parser(
        "calibrate", help="measure how honest and wrong answers of a language model are told apart"
    )
    calibrate.add_argument(
        "--prompts", type=int, default=16, help="prompts answered under each kind of noise"
    )
    for action in (show, qualify, calibrate):
        action.add_argument("name", metavar="NAME")
    for action in (listing, show):
        action.add_argument("--json", action="store_true", help="print JSON")
    for action in (add, listing, show, qualify, calibrate):
        action.add_argument(
            "--registry", type=Path, default=default_home() / "models", help="registry directory"
        )


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    from verispect.models.registry import ModelRegistry

    registry = ModelRegistry(arguments.registry)
    actions = {
        "add": _add,
        "list": _list,
        "show": _show,
        "qualify": _qualify,
        "calibrate": run_calibrate,
    }
    actions[arguments.action](registry, arguments)
    return 0


def _add(registry: ModelRegistry, arguments: argparse.Namespace) -> None:
    from verispect.models import registration

    template = _chat_template(arguments)
    name, replace, progress = arguments.name, arguments.replace, _progress()
    if (arguments.remote is None) != (arguments.upstream_model is None):
        raise RequestError("--remote and --upstream-model go together")
    if arguments.parent is not None and arguments.integer is None:
        raise RequestError("--parent needs --integer", parameter="parent")
    if arguments.integer is not None:
        if template is not None or arguments.qualify:
            raise RequestError("an integer model is exact by its format and takes no template")
        model = _add_integer(registry, arguments)
    elif arguments.remote is not None:
        if template is not None or arguments.qualify:
            raise RequestError("a remote model takes no chat template and cannot be qualified")
        model = registration.register_remote(
            registry, name, arguments.remote, arguments.upstream_model, replace=replace
        )
    elif arguments.catalogue is not None:
        model = registration.register_catalogued(
            registry,
            name,
            arguments.catalogue,
            chat_template=template,
            replace=replace,
            progress=progress,
        )
    else:
        details = registration.Details(chat_template=template, licence=arguments.licence)
        model = registration.register_file(
            registry, name, arguments.file, details, replace=replace, progress=progress
        )
    print(f"OK: registered {model.name}", file=sys.stderr)
    print(model.model_id.hex())
    if arguments.qualify:
        _qualify(registry, arguments)


_SAMPLE: Final = tuple(range(1, 9))
"""Columns of a hiding commitment that are computed again when it is registered."""


def _add_integer(registry: ModelRegistry, arguments: argparse.Namespace) -> RegisteredModel:
    from verispect.cli.proof import COMMITMENT_FILE, load_prover
    from verispect.core.encoding import Digest, from_hex
    from verispect.models.integer_model import PROVABLE_FILE, WEIGHTS_FILE, register_integer
    from verispect.proof.bounds import compute_bounds
    from verispect.proof.provable import MAX_WEIGHTS_BYTES, ProvableModel
    from verispect.proof.prover.prove import commit_model

    folder: Path = arguments.integer
    hides = ProvableModel.decode(read_file(folder / PROVABLE_FILE)).budget > 0

    def holds(model: ProvableModel, weights: Sequence[Any]) -> bool:
        if hides:
            # Its masks cannot be drawn again: the stored commitment is what proves.
            stored = load_prover(folder).commitment
            # Other weights would show in every column; these are computed anew and compared.
            try:
                replace(stored, words=None, checked=True).open(_SAMPLE)
            except StoreError:
                return False
            root = stored.root
        else:
            again, _ = commit_model(
                model.graph, weights, columns=model.columns, rate_bits=model.rate_bits
            )
            root = again.root
        if root != model.root:
            return False
        # A proof is about integers that never wrap around, which only the weights can show.
        compute_bounds(model.graph, weights)
        return True

    return register_integer(
        registry,
        arguments.name,
        read_file(folder / PROVABLE_FILE),
        read_file(folder / WEIGHTS_FILE, limit=MAX_WEIGHTS_BYTES),
        commitment_holds=holds,
        hiding_commitment=folder / COMMITMENT_FILE if hides else None,
        parent=None if arguments.parent is None else Digest(from_hex(arguments.parent, length=32)),
        licence=arguments.licence,
        replace=arguments.replace,
    )


def _chat_template(arguments: argparse.Namespace) -> str | None:
    if arguments.chat_template is None:
        return None
    try:
        return read_file(arguments.chat_template).decode()
    except UnicodeDecodeError as error:
        raise MalformedError(
            "the chat template is not UTF-8", reason=Reason.MALFORMED_MODEL
        ) from error


def _progress() -> Progress | None:
    """Return a reporter for long reads, or `None` where nobody looks."""
    if not sys.stderr.isatty():
        return None
    reported = 0

    def report(done: int, total: int) -> None:
        nonlocal reported
        if total > _PROGRESS_BYTES and (done - reported >= _PROGRESS_BYTES or done == total):
            reported = done
            end = "\n" if done == total else ""
            print(f"\rhashing {done * 100 // total:3d}%", end=end, file=sys.stderr, flush=True)

    return report


def _list(registry: ModelRegistry, arguments: argparse.Namespace) -> None:
    models = [registry.resolve(name) for name in registry.names()]
    if arguments.json:
        print(to_json([_summary(model) for model in models]))
        return
    if not models:
        print("verispect: hint: verispect models add --help", file=sys.stderr)
        return
    rows = [("name", "format", "identity", "determinism", "size", "model id")]
    for model in models:
        view = _summary(model)
        rows.append(
            (
                view["name"],
                view["format"],
                view["identity"],
                view["determinism"],
                _size(view["bytes"]),
                view["modelId"][:16],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _summary(model: RegisteredModel) -> dict[str, Any]:
    manifest = model.manifest
    return {
        "name": model.name,
        "modelId": model.model_id.hex(),
        "created": model.created,
        "format": manifest.model_format.value,
        "identity": manifest.identity.label,
        "determinism": manifest.determinism.determinism.label,
        "bytes": sum(entry.size for entry in manifest.files),
    }


def _size(size: int) -> str:
    if size == 0:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size = round(size / 1000)
    return f"{size} {unit}"


def _show(registry: ModelRegistry, arguments: argparse.Namespace) -> None:
    from verispect.models.qualification import load_record

    model = registry.resolve(arguments.name)
    if arguments.check:
        registry.open_verified(model).close()
    if arguments.json:
        print(to_json({**_summary(model), "manifest": model.manifest.to_json()}))
    else:
        for key, value in _flatten("", model.manifest.to_json()):
            print(f"{key}: {value}")
    record = load_record(registry, model)
    if record is not None and not arguments.json:
        for result in record["results"]:
            print(f"run {result['name']}: {result['equal']} of {result['cases']} equal")
        show_calibration(registry, model)
    if arguments.check:
        print("OK: every file and the signature bundle are unchanged", file=sys.stderr)


def _flatten(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        pairs = [(f"{prefix}.{key}" if prefix else key, item) for key, item in value.items()]
    elif isinstance(value, list):
        pairs = [(f"{prefix}[{index}]", item) for index, item in enumerate(value)]
    else:
        return [(prefix, "-" if value is None else value)]
    if not pairs:
        return [(prefix, "-")]
    return [line for key, item in pairs for line in _flatten(key, item)]


def _qualify(registry: ModelRegistry, arguments: argparse.Namespace) -> None:
    from verispect.models.qualification import qualify, record_qualification, unqualified

    model = registry.resolve(arguments.name)
    if model.manifest.remote is not None:
        raise RequestError("a remote model cannot be qualified: its engine is not ours")
    with registry.open_verified(model) as files:
        outcome = qualify(_subject(files), unqualified(model))
    qualified = record_qualification(registry, model, outcome)
    _print_outcome(outcome)
    print(f"before {model.model_id.hex()}")
    print(f"after  {qualified.model_id.hex()}")


def _subject(files: VerifiedFiles) -> Subject:
    if files.manifest.graph is not None:
        from verispect.cli.qualification import OnnxSubject

        return OnnxSubject(files)
    from verispect.cli.qualification_llama import LlamaSubject

    return LlamaSubject(files)


def _print_outcome(outcome: Qualification) -> None:
    for result in outcome.results:
        largest = "no measure" if result.largest is None else f"largest {result.largest:g}"
        print(
            f"{result.variation.name}: {result.equal} of {result.cases} equal, {largest}",
            file=sys.stderr,
        )
    epsilon = f" (epsilon {outcome.epsilon})" if outcome.epsilon else ""
    print(f"OK: {outcome.determinism.label}{epsilon}", file=sys.stderr)
