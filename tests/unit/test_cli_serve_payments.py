"""`verispect serve --payments`: what an operator must say, and what is refused before it serves."""

from __future__ import annotations

import pytest
from paid_gateway import SHEET

from verispect.cli.main import main


@pytest.fixture
def prices(tmp_path):
    path = tmp_path / "prices.toml"
    path.write_text(SHEET)
    return str(path)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--payments", "dev"], "--prices"),
        (["--pay-to", "0x" + "ab" * 20], "--payments"),
        (["--payments", "dev", "--prices", "PRICES", "--workers", "2"], "--workers"),
        (["--payments", "dev", "--prices", "PRICES", "--sweep-seconds", "0"], "--sweep-seconds"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, prices, capsys, options, word):
    """The message names the option, and nothing is served."""
    given = [prices if each == "PRICES" else each for each in options]
    assert main(["serve", "--port", "0", "--state", str(tmp_path / "state"), *given]) != 0
    assert word in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["facilitator", "rpc"])
def test_a_mode_says_what_it_lacks(tmp_path, monkeypatch, capsys, mode):
    """A mode without what it needs refuses to start, before the port answers."""
    home = tmp_path / "home"
    monkeypatch.setenv("VERISPECT_HOME", str(home))
    assert main(["keys", "new", "--issuer", "https://tests.example"]) == 0
    prices = tmp_path / "prices.toml"
    prices.write_text(SHEET)
    options = ["--payments", mode, "--prices", str(prices)]
    assert main(["serve", "--port", "0", *options]) != 0
    assert "needed for this mode" in capsys.readouterr().err


def test_a_price_sheet_that_is_none_is_refused(tmp_path, monkeypatch, capsys):
    """A wrong sheet is told before anything is sold by it."""
    monkeypatch.setenv("VERISPECT_HOME", str(tmp_path / "home"))
    assert main(["keys", "new", "--issuer", "https://tests.example"]) == 0
    prices = tmp_path / "prices.toml"
    prices.write_text("version = 1")
    assert main(["serve", "--port", "0", "--payments", "dev", "--prices", str(prices)]) != 0
    assert "price sheet" in capsys.readouterr().err
