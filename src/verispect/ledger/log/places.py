"""Where a log's state and tiles are: in its folder, or where `stores.toml` in that folder says.

    [state]
    postgres = "host=db.internal dbname=verispect"   # libpq's connection string
    schema = "verispect_log"

    [tiles]
    bucket = "receipts"
    prefix = "log/"
    endpoint = "https://objects.internal"
    region = "eu-1"
    allow_http = false

Either table may be missing. The file holds no secret: passwords and keys come from where libpq and
the S3 client look for them (`PGPASSFILE`, `AWS_ACCESS_KEY_ID`, ...). A key that is not known is an
error, so that a misspelt one is never a default.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from verispect.core.errors import Reason, StoreError
from verispect.ledger.log.interface import LogState, TileStore
from verispect.ledger.log.state_sqlite import SqliteState
from verispect.ledger.log.tile_files import FileTiles

STORES_FILE: Final = "stores.toml"
STATE_FILE: Final = "state.sqlite3"
TILES_FOLDER: Final = "tiles"
MAX_STORES_FILE_BYTES: Final = 16 * 1024

_STATE_KEYS: Final[dict[str, type]] = {"postgres": str, "schema": str}
_TILES_KEYS: Final[dict[str, type]] = {
    "bucket": str,
    "prefix": str,
    "endpoint": str,
    "region": str,
    "allow_http": bool,
}


@dataclass(frozen=True, slots=True)
class StorePlaces:
    """The places of one log."""

    folder: Path
    state: dict[str, Any]
    """Empty for SQLite in the folder."""
    tiles: dict[str, Any]
    """Empty for files in the folder."""

    @classmethod
    def read(cls, folder: Path) -> StorePlaces:
        """Read `stores.toml`; without one everything is in the folder.

        Raises:
            StoreError: `store-failed` for a file that cannot be read or says something unknown.
        """
        try:
            with (folder / STORES_FILE).open("rb") as file:
                text = file.read(MAX_STORES_FILE_BYTES + 1)
        except FileNotFoundError:
            return cls(folder, {}, {})
        except OSError as error:
            raise _refused("cannot be read") from error
        if len(text) > MAX_STORES_FILE_BYTES:
            raise _refused("is too large")
        try:
            tables = tomllib.loads(text.decode("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise _refused("is not TOML") from error
        if not tables.keys() <= {"state", "tiles"}:
            raise _refused("has an unknown table")
        state = _checked(tables.get("state", {}), _STATE_KEYS, required="postgres")
        tiles = _checked(tables.get("tiles", {}), _TILES_KEYS, required="bucket")
        return cls(folder, state, tiles)

    def open_state(self) -> LogState:
        """Open the database; one for each thread.

        Raises:
            StoreError: `store-failed`, `store-locked`, `unsupported-version`.
        """
        if not self.state:
            return SqliteState(self.folder / STATE_FILE)
        from verispect.ledger.log.state_postgres import PostgresState

        further = {key: self.state[key] for key in ("schema",) if key in self.state}
        return PostgresState(self.state["postgres"], **further)

    def open_tiles(self) -> TileStore:
        """Open the tiles; one for each thread that writes.

        Raises:
            StoreError: `store-failed`.
        """
        if not self.tiles:
            return FileTiles(self.folder / TILES_FOLDER)
        from verispect.ledger.log.tile_objects import ObjectTiles

        options: dict[str, Any] = {
            key: self.tiles[key] for key in ("endpoint", "region") if key in self.tiles
        }
        if self.tiles.get("allow_http"):
            options["client_options"] = {"allow_http": True}
        prefix = self.tiles.get("prefix", "")
        return ObjectTiles(self.tiles["bucket"], prefix=prefix, options=options)


def _checked(table: Any, known: dict[str, type], *, required: str) -> dict[str, Any]:
    if type(table) is not dict:
        raise _refused("has something that is no table")
    for key, value in table.items():
        if key not in known or type(value) is not known[key]:
            raise _refused("has an unknown key, or a value of another type")
    if table and required not in table:
        raise _refused(f"lacks {required}")
    return table


def _refused(what: str) -> StoreError:
    return StoreError(f"{STORES_FILE} {what}", reason=Reason.STORE_FAILED)
