"""Evidence kinds are found by entry point, and an installed package never changes a verdict."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

from verispect.core.errors import Reason, UnsupportedError
from verispect.evidence.registry import BUILT_IN, GROUP, load_kinds


def test_entry_points_name_the_built_in_kinds():
    """The built-in kinds are registered the way everybody's are, and are the same classes."""
    ours = [point for point in entry_points(group=GROUP) if point.dist.name == "verispect"]
    made = {point.name: point.load()() for point in ours}
    assert {name: type(kind) for name, kind in made.items()} == {
        name: type(kind) for name, kind in BUILT_IN.items()
    }
    assert all(kind.name == name for name, kind in (*BUILT_IN.items(), *made.items()))


def test_nothing_is_loaded_unless_named():
    """Without a name given, only the built-in kinds are there."""
    assert load_kinds() == dict(BUILT_IN)


@pytest.mark.parametrize("name", ["no-such-kind", "signature"])
def test_unknown_names_and_built_in_ones_are_refused(name):
    """A kind that is not installed, or would take a built-in name, is refused."""
    with pytest.raises(UnsupportedError) as caught:
        load_kinds([name])
    assert caught.value.reason is Reason.UNSUPPORTED_EVIDENCE


def test_a_package_of_others_is_loaded_when_named_and_only_then(tmp_path, monkeypatch):
    """Another distribution's kind is found by name and never by being installed."""
    metadata = tmp_path / "other_kind-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other-kind\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        f"[{GROUP}]\nother = other_kind:Other\nsignature = other_kind:Other\n"
    )
    (tmp_path / "other_kind.py").write_text("class Other:\n    name = 'other'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_kinds() == dict(BUILT_IN)
    assert load_kinds(["other"])["other"].name == "other"
    with pytest.raises(UnsupportedError):
        load_kinds(["signature"])
