"""The registry: devices, keys, settings and pending enrolments in one SQLite file.

Every change is one transaction. Changes to devices and keys reach the disk before the call
returns (synchronous=FULL); counters and marks are saved in batches that a power cut may take
back, but a crash of the process may not (synchronous=NORMAL). A file that is damaged, or newer
than this program, is left untouched.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from lopower.endpoint import Endpoint

from . import keys, schema
from .addresses import REMEMBER_SECONDS
from .device import Device, Pending, Purpose, Runtime
from .errors import Conflict, NotFound, RegistryCorrupt, RegistryError, RegistryNewer
from .lock import make_data_directory
from .names import normalise, show
from .settings import Settings

FILE = "lopower.db"
MODE = 0o600
MAGIC = b"SQLite format 3\0"
# Another process (a backup, a command that reads) may hold the file for a moment.
BUSY_SECONDS = 10.0
MAX_INTEGER = 2**63 - 1

_DEVICES = """
    SELECT d.id, d.name, d.public_key, d.preshared_key, d.ipv4, d.ipv6, d.profile, d.enabled,
           d.created, d.rules, d.addressing, d.fragments_ok, r.endpoint_host, r.endpoint_port,
           r.last_handshake, r.timestamp_mark, coalesce(r.rx_bytes, 0), coalesce(r.tx_bytes, 0)
      FROM devices d LEFT JOIN runtime r ON r.device_id = d.id
"""
_SAVE_RUNTIME = """
    INSERT INTO runtime (device_id, endpoint_host, endpoint_port, last_handshake,
                         timestamp_mark, rx_bytes, tx_bytes)
    SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE EXISTS (SELECT 1 FROM devices WHERE id = ?1)
    ON CONFLICT (device_id) DO UPDATE SET
        endpoint_host = excluded.endpoint_host, endpoint_port = excluded.endpoint_port,
        last_handshake = excluded.last_handshake, timestamp_mark = excluded.timestamp_mark,
        rx_bytes = excluded.rx_bytes, tx_bytes = excluded.tx_bytes
"""


class Registry:
    """Owner of the file; safe to call from several threads of the one process that holds it."""

    def __init__(
        self, data: Path, *, ipv4: bool | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """Open DATA/lopower.db, making it if there is none; `ipv4` overrules the setting."""
        self.path = Path(data) / FILE
        self._ipv4 = ipv4
        self._clock = clock
        self._lock = threading.RLock()
        self._truncate_due = False
        make_data_directory(self.path.parent)
        with _reported(self.path):
            _open_file(self.path, clock())
            self._db = _connect(self.path)
            try:
                self._start()
            except BaseException:
                self._db.close()
                raise

    def _start(self) -> None:
        schema.migrate(self._db)
        row = self._db.execute("SELECT gateway_id, private_key FROM server").fetchone()
        if row is None:
            raise RegistryCorrupt(f"The registry {self.path} holds no server key.")
        self.gateway_id: str = row[0]
        self._server = keys.KeyPair(row[1], keys.public_of(row[1]))
        self._truncate_due = True  # an earlier run may have died between erasing and truncating
        self.expire(self._clock())

    def close(self) -> None:
        """Fold the journal into the file and let go of it."""
        with self._lock, suppress(sqlite3.Error):
            self._db.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # The gateway itself

    @property
    def server_private_key(self) -> bytes:
        """The gateway's WireGuard private key."""
        return self._server.private

    @property
    def server_public_key(self) -> bytes:
        """The gateway's WireGuard public key."""
        return self._server.public

    def settings(self) -> Settings:
        """The settings, with `ipv4` as this process was told."""
        stored = self.stored_settings()
        return stored if self._ipv4 is None else replace(stored, ipv4=self._ipv4)

    def stored_settings(self) -> Settings:
        """The settings as they are remembered."""
        rows = self._all("SELECT name, value FROM settings")
        return Settings(**{name: json.loads(value) for name, value in rows})

    def save_settings(self, **changes: Any) -> Settings:
        """Change some settings; the ranges only while no device has an address from them."""
        with self._transaction():
            old = self.stored_settings()
            new = old.changed(changes)
            if new.plan != old.plan:
                self._move_ranges()
            for name, value in changes.items():
                self._db.execute(
                    "INSERT INTO settings VALUES (?, ?) "
                    "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                    (name, json.dumps(value)),
                )
        return self.settings()

    def _move_ranges(self) -> None:
        (count,) = self._db.execute("SELECT count(*) FROM devices").fetchone()
        if count:
            noun = "1 device has its address" if count == 1 else f"{count} devices have addresses"
            raise Conflict(f"{noun} from the present ranges: revoke them before changing these.")
        self._db.execute("DELETE FROM retired")

    # Devices

    def devices(self) -> list[Device]:
        """Every device, in the order of their addresses."""
        ipv4 = self.settings().ipv4
        return [_device(row, ipv4) for row in self._all(_DEVICES + " ORDER BY d.number")]

    def device(self, device_id: str) -> Device | None:
        """The device with this id."""
        rows = self._all(_DEVICES + " WHERE d.id = ?", device_id)
        return _device(rows[0], self.settings().ipv4) if rows else None

    def find(self, name: str) -> Device:
        """The device a user means by a name or an id; NotFound when there is none."""
        rows = self._all(
            _DEVICES + " WHERE d.name = ?1 OR d.id = ?2 ORDER BY d.name = ?1 DESC",
            normalise(name),
            name,
        )
        if not rows:
            raise NotFound(f"There is no device called {show(name)}.")
        return _device(rows[0], self.settings().ipv4)

    def add_device(
        self,
        name: str,
        profile: str,
        public_key: bytes,
        preshared_key: bytes | None,
        *,
        private_key: bytes | None,
        expires: float | None,
        addressing: str,
        fragments_ok: bool,
        rules: Iterable[str] = (),
    ) -> Device:
        """A new device with the next free address and its enrolment, in one transaction."""
        now = self._clock()
        with self._transaction():
            self._refuse_name(name)
            self._refuse_key(public_key)
            number = self._allocate(name, now)
            device_id = self._fresh_id()
            ipv4, ipv6 = self.settings().plan.addresses(number)
            identity = (device_id, name, number, ipv4, ipv6, public_key, preshared_key, profile)
            options = (addressing, fragments_ok, now, json.dumps(list(rules)))
            self._db.execute(
                "INSERT INTO devices VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?)",
                (*identity, *options),
            )
            self._add_pending(device_id, "enrol", public_key, preshared_key, private_key, expires)
        return self._get(device_id)

    def rename(self, device_id: str, name: str) -> Device:
        """Give a device another name."""
        with self._transaction():
            self._refuse_name(name, but=device_id)
            self._db.execute("UPDATE devices SET name = ? WHERE id = ?", (name, device_id))
        return self._get(device_id)

    def set_enabled(self, device_id: str, enabled: bool) -> Device:
        """Let a device in, or keep it out while remembering it."""
        return self._set(device_id, "enabled", enabled)

    def set_rules(self, device_id: str, rules: Iterable[str]) -> Device:
        """Replace a device's allow list."""
        return self._set(device_id, "rules", json.dumps(list(rules)))

    def set_addressing(self, device_id: str, addressing: str) -> Device:
        """Answer a device's DNS questions with native or with alias addresses."""
        return self._set(device_id, "addressing", addressing)

    def revoke(self, device_id: str) -> None:
        """Forget a device and its keys; its address stays unused for a while."""
        with self._transaction():
            self._wipe("device_id = ?", device_id)
            self._db.execute(
                "UPDATE devices SET preshared_key = zeroblob(32) "
                "WHERE id = ? AND preshared_key IS NOT NULL",
                (device_id,),
            )
            self._db.execute(
                "INSERT OR REPLACE INTO retired SELECT number, name, ? FROM devices WHERE id = ?",
                (self._clock() + REMEMBER_SECONDS, device_id),
            )
            self._db.execute("DELETE FROM devices WHERE id = ?", (device_id,))
        self._truncate()

    def save_runtime(self, updates: Iterable[Runtime]) -> None:
        """Save a batch of endpoints, handshakes, marks and counters; unknown ids are skipped."""
        rows = [_runtime_row(update) for update in updates]
        with self._lock, _reported(self.path):
            self._db.execute("PRAGMA synchronous = NORMAL")
            try:
                with self._transaction():
                    self._db.executemany(_SAVE_RUNTIME, rows)
            finally:
                self._db.execute("PRAGMA synchronous = FULL")
        if self._truncate_due:
            self._truncate()

    def forget_timestamp(self, device_id: str) -> Device:
        """Accept whatever time the device's next handshake carries."""
        with self._transaction():
            self._db.execute(
                "UPDATE runtime SET timestamp_mark = NULL WHERE device_id = ?", (device_id,)
            )
        return self._get(device_id)

    # Enrolments and rotations that wait for a first handshake

    def pending(self) -> list[Pending]:
        """Every enrolment and rotation without a handshake yet."""
        return [Pending(*row) for row in self._all("SELECT * FROM pending ORDER BY rowid")]

    def pending_for(self, device_id: str) -> Pending | None:
        """The enrolment or rotation of one device."""
        rows = self._all("SELECT * FROM pending WHERE device_id = ?", device_id)
        return Pending(*rows[0]) if rows else None

    def set_pending_rotation(
        self,
        device_id: str,
        public_key: bytes,
        preshared_key: bytes | None,
        private_key: bytes | None,
        expires: float | None,
    ) -> None:
        """New keys that take over at their first handshake; the old ones work until then."""
        self._replace_pending(device_id, "rotate", public_key, preshared_key, private_key, expires)

    def replace_keys(
        self,
        device_id: str,
        public_key: bytes,
        preshared_key: bytes | None,
        private_key: bytes | None,
        expires: float | None,
    ) -> Device:
        """New keys that count at once; the old ones are dead."""
        self._replace_pending(device_id, "enrol", public_key, preshared_key, private_key, expires)
        return self._get(device_id)

    def enrolment_finished(self, device_id: str, public_key: bytes | None = None) -> Device | None:
        """The pending keys have made a handshake: they are the device's, the private one goes.

        Cheap to call at every handshake, with the key it was made with; None: nothing changed.
        """
        pending = self.pending_for(device_id)
        if pending is None or public_key not in (None, pending.public_key):
            return None
        with self._transaction():
            self._wipe("device_id = ?", device_id)
            self._db.execute("DELETE FROM pending WHERE device_id = ?", (device_id,))
            if pending.purpose == "rotate":
                self._put_keys(device_id, pending.public_key, pending.preshared_key)
        self._truncate()
        return self.device(device_id)

    def expire(self, now: float) -> int:
        """Erase private keys whose time is up and forget old addresses; how many keys went."""
        due = self._all(
            "SELECT 1 FROM retired WHERE until <= ?1 UNION ALL "
            "SELECT 1 FROM pending WHERE private_key IS NOT NULL AND expires <= ?1",
            now,
        )
        count = 0
        if due:  # called every few seconds: a disk is not to be bothered for nothing
            with self._transaction():
                self._db.execute("DELETE FROM retired WHERE until <= ?", (now,))
                count = self._wipe("expires <= ?", now)
        if self._truncate_due:
            self._truncate()
        return count

    # Within a transaction

    def _set(self, device_id: str, column: str, value: Any) -> Device:
        with self._transaction():
            self._db.execute(
                f"UPDATE devices SET {column} = ? WHERE id = ?",  # noqa: S608 our own names
                (value, device_id),
            )
        return self._get(device_id)

    def _get(self, device_id: str) -> Device:
        device = self.device(device_id)
        if device is None:
            raise NotFound(f"There is no device with the id {show(device_id)}.")
        return device

    def _refuse_name(self, name: str, but: str = "") -> None:
        row = self._db.execute(
            "SELECT 1 FROM devices WHERE name = ? AND id != ?", (name, but)
        ).fetchone()
        if row:
            raise Conflict(f"There is already a device called '{name}'.")

    def _refuse_key(self, public_key: bytes, but: str = "") -> None:
        if public_key == self.server_public_key:
            raise Conflict("This is the gateway's own public key: a device needs its own.")
        row = self._db.execute(
            "SELECT name FROM devices WHERE public_key = ?1 AND id != ?2 UNION "
            "SELECT name FROM devices d JOIN pending p ON p.device_id = d.id "
            " WHERE p.public_key = ?1 AND d.id != ?2",
            (public_key, but),
        ).fetchone()
        if row:
            raise Conflict(f"The device '{row[0]}' already uses this public key.")

    def _allocate(self, name: str, now: float) -> int:
        self._db.execute("DELETE FROM retired WHERE until <= ?", (now,))
        again = self._db.execute("SELECT number FROM retired WHERE name = ?", (name,)).fetchone()
        if again:  # the same name comes back: it is the same thing to its user
            self._db.execute("DELETE FROM retired WHERE number = ?", again)
            return int(again[0])
        taken = self._db.execute("SELECT number FROM devices UNION SELECT number FROM retired")
        return self.settings().plan.allocate({number for (number,) in taken})

    def _fresh_id(self) -> str:
        while True:
            device_id = secrets.token_hex(4)
            if not self._db.execute("SELECT 1 FROM devices WHERE id = ?", (device_id,)).fetchone():
                return device_id

    def _replace_pending(
        self,
        device_id: str,
        purpose: Purpose,
        public_key: bytes,
        preshared_key: bytes | None,
        private_key: bytes | None,
        expires: float | None,
    ) -> None:
        with self._transaction():
            self._refuse_key(public_key, but=device_id)
            self._wipe("device_id = ?", device_id)
            self._db.execute("DELETE FROM pending WHERE device_id = ?", (device_id,))
            if purpose == "enrol":
                self._put_keys(device_id, public_key, preshared_key)
            self._add_pending(device_id, purpose, public_key, preshared_key, private_key, expires)
        self._truncate()

    def _add_pending(self, *values: Any) -> None:
        self._db.execute("INSERT INTO pending VALUES (?, ?, ?, ?, ?, ?)", values)

    def _put_keys(self, device_id: str, public_key: bytes, preshared_key: bytes | None) -> None:
        """A new identity: timestamps of the old one mean nothing to it."""
        self._db.execute(
            "UPDATE devices SET public_key = ?, preshared_key = ? WHERE id = ?",
            (public_key, preshared_key, device_id),
        )
        self._db.execute(
            "UPDATE runtime SET timestamp_mark = NULL WHERE device_id = ?", (device_id,)
        )

    def _wipe(self, where: str, value: Any) -> int:
        """Overwrite private keys in place, then let go of them; how many there were."""
        condition = f"private_key IS NOT NULL AND {where}"
        overwritten = self._db.execute(
            f"UPDATE pending SET private_key = zeroblob(32) WHERE {condition}",  # noqa: S608
            (value,),
        ).rowcount
        self._db.execute(
            f"UPDATE pending SET private_key = NULL WHERE {condition}",  # noqa: S608
            (value,),
        )
        self._truncate_due |= overwritten > 0
        return overwritten

    def _truncate(self) -> None:
        """Empty the journal, where an erased key still stands; a reader may delay it."""
        with self._lock, _reported(self.path):
            busy, *_ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._truncate_due = bool(busy)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, and on the disk when it returns."""
        with self._lock, _reported(self.path), schema.transaction(self._db):
            yield

    def _all(self, query: str, *values: Any) -> list[Any]:
        with self._lock, _reported(self.path):
            return self._db.execute(query, values).fetchall()


def check_file(path: Path) -> None:
    """RegistryCorrupt or RegistryNewer unless this is a sound registry; reads only."""
    with _reported(path):
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise RegistryCorrupt(_damaged(path, "it is not an SQLite file"))
        uri = f"{path.resolve().as_uri()}?mode=ro"
        db = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)
        try:
            _check_content(db, path)
        finally:
            db.close()


def read_settings(data: Path) -> Settings:
    """The settings in a registry, only read; the defaults where there is none or it is ill."""
    path = data / FILE
    if not path.exists():
        return Settings()
    try:
        check_file(path)
        with _reported(path):
            db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
            try:
                rows = db.execute("SELECT name, value FROM settings").fetchall()
            finally:
                db.close()
    except RegistryError:
        return Settings()
    return Settings(**{name: json.loads(value) for name, value in rows})


def _check_content(db: sqlite3.Connection, path: Path) -> None:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application != schema.APPLICATION_ID:
        raise RegistryCorrupt(f"{path} belongs to another program and was left untouched.")
    if version > schema.current_version():
        raise RegistryNewer(
            f"The registry {path} was written by a newer LoPower (format {version}, this one "
            f"knows {schema.current_version()}): update LoPower or restore a backup."
        )
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise RegistryCorrupt(_damaged(path, " ".join(str(verdict).split())))


def _damaged(path: Path, why: str) -> str:
    return (
        f"The registry {path} is damaged and was left untouched ({why}): restore it from a "
        "backup, or move it away to start with an empty one."
    )


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """SQLite's and the system's troubles as one sentence each."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise RegistryError(f"The registry {path} cannot be used: {error}.") from error
    except sqlite3.DatabaseError as error:
        raise RegistryCorrupt(_damaged(path, str(error))) from error
    except OSError as error:
        raise RegistryError(f"The registry {path} cannot be used: {error.strerror}.") from error


def _open_file(path: Path, now: float) -> None:
    """Check the file that is there, or make a whole new one and move it into place."""
    if path.exists():
        check_file(path)
        path.chmod(MODE)
        return
    draft = path.with_suffix(".new")
    for leftover in draft.parent.glob(f"{draft.name}*"):
        leftover.unlink()
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, MODE))
    db = _connect(draft)
    try:
        schema.migrate(db)
        row = (1, secrets.token_hex(16), keys.generate().private, now)
        db.execute("INSERT INTO server VALUES (?, ?, ?, ?)", row)
    finally:
        db.close()
    draft.rename(path)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA secure_delete = ON")
    db.execute("PRAGMA trusted_schema = OFF")
    return db


def _device(row: Any, ipv4: bool) -> Device:
    host, port = row[12], row[13]
    return Device(
        id=row[0],
        name=row[1],
        public_key=row[2],
        preshared_key=row[3],
        ipv4=row[4] if ipv4 else None,
        ipv6=row[5],
        profile=row[6],
        enabled=bool(row[7]),
        created=row[8],
        rules=tuple(json.loads(row[9])),
        addressing=row[10],
        fragments_ok=bool(row[11]),
        last_endpoint=None if host is None else Endpoint(host, port),
        last_handshake=row[14],
        timestamp_mark=row[15],
        rx_bytes=row[16],
        tx_bytes=row[17],
    )


def _runtime_row(update: Runtime) -> tuple[Any, ...]:
    host, port = update.last_endpoint or (None, None)
    return (
        update.device_id,
        host,
        port,
        update.last_handshake,
        update.timestamp_mark,
        min(update.rx_bytes, MAX_INTEGER),
        min(update.tx_bytes, MAX_INTEGER),
    )
