"""References to earlier outputs in the requests of a transaction (spec/transaction.md section 5).

A reference names a place in an earlier answer; here it becomes a place in what the earlier receipt
commits to, and its own place one in what the later receipt commits to. What no receipt covers
cannot be named, so that every reference can be checked by whoever has the openings. References
point backwards only: there are no cycles.

Pure: used before a part runs, and years later by whoever checks. It refuses to guess.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

from verispect.core.commitments import Opening, Part
from verispect.core.errors import Reason, RequestError, VerificationError
from verispect.core.transaction import (
    MAX_DEPENDENCIES,
    MAX_PARTS,
    MAX_POINTER_CHARACTERS,
    Dependency,
    ValueForm,
)

REFERENCE: Final = "$from"
OPERATIONS: Final[Mapping[str, str]] = {
    "/v1/chat/completions": "chat.completions",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/embeddings": "embeddings",
}
"""Interfaces by path; with `infer`, those that a part may call."""

_INFER: Final = re.compile(r"/v2/models/.+/infer")
_FORMS: Final = {"value": ValueForm.SAME, "text": ValueForm.TEXT}
_SYSTEM_ROLES: Final = ("system", "developer")
_ELEMENTS: Final = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
_N: Final = r"(0|[1-9][0-9]{0,5})"
_SOURCES: Final[Mapping[str, Sequence[tuple[re.Pattern[str], Part, str]]]] = {
    "chat.completions": (
        (re.compile(rf"/choices/{_N}/message/content"), Part.OUTPUT, "/{0}"),
        (
            re.compile(rf"/choices/{_N}/message/tool_calls/{_N}/function/arguments"),
            Part.TOOL_CALLS,
            "/{0}/{1}/arguments",
        ),
    ),
    "completions": ((re.compile(rf"/choices/{_N}/text"), Part.OUTPUT, "/{0}"),),
    "responses": ((re.compile(r"/output_text"), Part.OUTPUT, "/0"),),
    "embeddings": ((re.compile(rf"/data/{_N}/embedding"), Part.OUTPUT, "/{0}"),),
    "infer": (
        (re.compile(rf"/outputs/{_N}/data"), Part.OUTPUT, "/{0}/data"),
        (re.compile(rf"/outputs/{_N}/data/{_N}"), Part.OUTPUT, "/{0}/data/{1}"),
    ),
}


@dataclass(frozen=True, slots=True)
class Link:
    """One reference, in the words of the two receipts."""

    source: int
    source_part: Part
    source_pointer: str
    target_part: Part
    target_pointer: str
    form: ValueForm

    def dependency(
        self, source: Mapping[Part, bytes], target: Mapping[Part, bytes]
    ) -> Dependency | None:
        """Return what stands in the leaf; `None` where a commitment is not there.

        Args:
            source: the commitments of the earlier statement.
            target: those of the later one.
        """
        fed, into = source.get(self.source_part), target.get(self.target_part)
        if fed is None or into is None:
            return None
        return Dependency.from_row(
            [
                self.source,
                int(self.source_part),
                self.source_pointer,
                fed,
                int(self.target_part),
                self.target_pointer,
                into,
                int(self.form),
            ]
        )


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference and where it stands in the request."""

    link: Link
    where: Sequence[str | int]


def operation_of(path: str) -> str | None:
    """Return the interface of a path; `None` where it is none that a part may call."""
    return OPERATIONS.get(path) or ("infer" if _INFER.fullmatch(path) else None)


def read_references(
    body: Any, *, path: str, index: int, operations: Sequence[str]
) -> list[Reference]:
    """Return the references in the body of a request, in a fixed order.

    Args:
        body: decoded JSON of bounded depth.
        path: what the request is sent to.
        index: the part's place; `MAX_PARTS` where only earlier parts are known.
        operations: the interfaces of the parts before, by index.

    Raises:
        RequestError: `dependency-invalid`, `invalid-request` for another path.
    """
    operation = operation_of(path)
    if operation is None:
        raise RequestError("this path is no inference", parameter="path")
    found = [
        Reference(_link(value[REFERENCE], body, operation, where, index, operations), where)
        for where, value in _objects(body)
        if REFERENCE in value
    ]
    if len(found) > MAX_DEPENDENCIES:
        raise _invalid(f"expected at most {MAX_DEPENDENCIES} references in one part")
    return found


def fill(body: Any, references: Sequence[Reference], values: Sequence[Any]) -> None:
    """Put values in the place of references, in the body itself."""
    for reference, value in zip(references, values, strict=True):
        *path, last = reference.where
        holder = body
        for step in path:
            holder = holder[step]
        holder[last] = value


def source_value(link: Link, opening: Opening | None) -> Any:
    """Return the value that a link takes of an earlier part.

    Raises:
        RequestError: `dependency-invalid` where there is none.
    """
    if opening is None:
        raise _invalid("the earlier part has no such output")
    return in_form(committed_value(opening.content(), link.source_pointer), link.form)


def check_dependency(
    dependency: Dependency, source: Opening | None, target: Opening | None
) -> None:
    """Check with the openings of both ends that the input is the earlier output.

    The openings were checked against their commitments.

    Raises:
        VerificationError: `dependency-invalid`.
    """
    if source is None or target is None:
        raise _not_so("an end of the dependency is not opened")
    try:
        value = in_form(
            committed_value(source.content(), dependency.source_pointer), dependency.form
        )
        if _fits(value, target.content(), dependency.target_pointer):
            return
    except RequestError as error:
        raise _not_so(error.message) from error
    raise _not_so("the input is not the earlier output")


def committed_value(content: Any, pointer: str) -> Any:
    """Return what stands at a place of committed content.

    Raises:
        RequestError: `dependency-invalid` where nothing stands there.
    """
    found = content
    for step in _steps(pointer):
        found = _step(found, step)
    return _numbers_of_bytes(found) if isinstance(found, bytes) else found


def in_form(value: Any, form: ValueForm) -> Any:
    """Return a value as the form has it.

    Raises:
        RequestError: `dependency-invalid` for a number that JSON does not have.
    """
    if form is ValueForm.SAME or isinstance(value, str):
        return value
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise _invalid("the earlier output has no JSON text") from error


# -- Reading -------------------------------------------------------------------------------------


def _invalid(what: str) -> RequestError:
    return RequestError(what, reason=Reason.DEPENDENCY_INVALID, parameter=REFERENCE)


def _not_so(what: str) -> VerificationError:
    return VerificationError(what, reason=Reason.DEPENDENCY_INVALID)


def _objects(body: Any) -> list[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """Return every object below `body` with its place."""
    found: list[tuple[tuple[str | int, ...], dict[str, Any]]] = []
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), body)]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, dict):
            found.append((where, value))
            waiting += [((*where, name), item) for name, item in value.items()]
        elif isinstance(value, list):
            waiting += [
                ((*where, place), item)
                for place, item in enumerate(value)
                if isinstance(item, (dict, list))
            ]
    return found[::-1]


def _link(
    value: Any,
    body: Any,
    operation: str,
    where: Sequence[str | int],
    index: int,
    operations: Sequence[str],
) -> Link:
    holder = body
    for step in where:
        holder = holder[step]
    if len(holder) != 1 or not isinstance(value, dict) or not value.keys() <= _MEMBERS:
        raise _invalid("a reference has the member $from alone, with part, path and perhaps as")
    source, path, form = value.get("part"), value.get("path"), value.get("as", "value")
    if type(source) is not int or not 0 <= source < MAX_PARTS:
        raise _invalid("the part of a reference is not an index")
    if source >= min(index, len(operations)):
        raise _invalid("a reference names an earlier part, and neither its own nor a later one")
    if not isinstance(form, str) or form not in _FORMS:
        raise _invalid("expected value or text")
    source_part, source_pointer = _source(operations[source], path)
    target_part, target_pointer = _target(operation, body, where)
    if max(len(source_pointer), len(target_pointer)) > MAX_POINTER_CHARACTERS:
        raise _invalid("the place of a reference is too long")
    return Link(source, source_part, source_pointer, target_part, target_pointer, _FORMS[form])


_MEMBERS: Final = {"part", "path", "as"}


def _source(operation: str, path: Any) -> tuple[Part, str]:
    for pattern, part, pointer in _SOURCES.get(operation, ()):
        match = pattern.fullmatch(path) if isinstance(path, str) else None
        if match is not None:
            return part, pointer.format(*match.groups())
    raise _invalid(f"no receipt of {operation} covers what this path names")


def _target(operation: str, body: Any, where: Sequence[str | int]) -> tuple[Part, str]:
    match operation, tuple(where):
        case "chat.completions", ("messages", int(place), "content", *rest) if _is_text(rest):
            leading = len([*takewhile(_is_system, body["messages"])])
            if place >= leading:
                return Part.MESSAGES, _pointer("", place - leading, "content", *rest)
        case "completions", ("prompt", *rest) if len(rest) <= 1:
            return Part.MESSAGES, _pointer("", 0, "prompt", *rest)
        case "responses", ("input",) if body.get("previous_response_id") is None:
            return Part.MESSAGES, "/0/content"
        case "embeddings", ("input", *rest) if len(rest) <= 1:
            return Part.EFFECTIVE_INPUT, _pointer("", "inputs", *(rest or [0]))
        case "infer", ("inputs", int(place), "data"):
            name = body["inputs"][place].get("name")
            if isinstance(name, str):
                return Part.EFFECTIVE_INPUT, _pointer("", f"={name}", "data")
        case _:
            pass
    raise _invalid("a reference cannot stand here: no receipt would cover it")


def _is_text(rest: Sequence[str | int]) -> bool:
    return not rest or (len(rest) == 2 and type(rest[0]) is int and rest[1] == "text")


def _is_system(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in _SYSTEM_ROLES


def _pointer(*steps: str | int) -> str:
    return "/".join(str(step).replace("~", "~0").replace("/", "~1") for step in steps)


# -- Committed content ---------------------------------------------------------------------------


def _steps(pointer: str) -> list[str]:
    if not pointer:
        return []
    if not pointer.startswith("/"):
        raise _invalid("not a pointer")
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/")]


def _step(found: Any, step: str) -> Any:
    if _is_tensor(found):
        if step == "data":
            return _numbers(found[1], found[3])
    elif isinstance(found, bytes):
        return _step(_numbers_of_bytes(found), step)
    elif isinstance(found, list):
        if step.startswith("="):
            for item in found:
                if _is_tensor(item) and item[0] == step[1:]:
                    return item
        elif step.isascii() and step.isdigit() and len(step) < 8 and int(step) < len(found):
            return found[int(step)]
    elif isinstance(found, dict) and step in found:
        return found[step]
    raise _invalid("nothing stands at the place of a reference")


def _is_tensor(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and isinstance(value[0], str)
        and isinstance(value[1], str)
        and isinstance(value[2], list)
        and isinstance(value[3], bytes)
    )


def _numbers(datatype: str, data: bytes) -> list[Any]:
    code = _ELEMENTS.get(datatype)
    if code is None or len(data) % struct.calcsize(code):
        raise _invalid("a tensor of this datatype has no numbers")
    return list(struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data))


def _numbers_of_bytes(data: bytes) -> list[Any]:
    return _numbers("FP32", data)


def _fits(value: Any, content: Any, pointer: str) -> bool:
    """Tell whether `value` is what stands there; numbers as the tensor there has them."""
    steps = _steps(pointer)
    if steps[-1:] == ["data"]:
        holder = content
        for step in steps[:-1]:
            holder = _step(holder, step)
        if _is_tensor(holder):
            try:
                code = _ELEMENTS[holder[1]]
                return bool(struct.pack(f"<{len(value)}{code}", *value) == holder[3])
            except (KeyError, TypeError, OverflowError, struct.error):
                return False
    found = committed_value(content, pointer)
    return type(found) is type(value) and bool(found == value)
