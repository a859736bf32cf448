"""The text forms of policies: values in a line of TOML, and JSON objects of unique members."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


def unique_members(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of a JSON object.

    Raises:
        ValueError: one is given twice.
    """
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError("a member is given twice")
        result[name] = value
    return result


def toml_value(value: Any) -> str:
    """Return a value as TOML in one line. Text is printable, so that JSON's escapes are TOML's."""
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{name} = {toml_value(each)}" for name, each in value.items()) + " }"
        )
    return json.dumps(value, ensure_ascii=False)
