"""The registry's tables and how an older file becomes a current one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

# "LoPw": tells our file from any other program's SQLite file.
APPLICATION_ID = 0x4C6F5077

VERSION_1 = """
CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL              -- JSON
) STRICT;
CREATE TABLE server (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    gateway_id TEXT NOT NULL,
    private_key BLOB NOT NULL CHECK (length(private_key) = 32),
    created REAL NOT NULL
) STRICT;
CREATE TABLE devices (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    number INTEGER NOT NULL UNIQUE CHECK (number > 1),
    ipv4 BLOB NOT NULL UNIQUE CHECK (length(ipv4) = 4),
    ipv6 BLOB NOT NULL UNIQUE CHECK (length(ipv6) = 16),
    public_key BLOB NOT NULL UNIQUE CHECK (length(public_key) = 32),
    preshared_key BLOB CHECK (length(preshared_key) = 32),
    profile TEXT NOT NULL,
    addressing TEXT NOT NULL CHECK (addressing IN ('native', 'alias')),
    fragments_ok INTEGER NOT NULL,
    enabled INTEGER NOT NULL,
    created REAL NOT NULL,
    rules TEXT NOT NULL              -- JSON list
) STRICT;
CREATE TABLE runtime (
    device_id TEXT PRIMARY KEY REFERENCES devices (id) ON DELETE CASCADE,
    endpoint_host TEXT,
    endpoint_port INTEGER,
    last_handshake REAL,
    timestamp_mark BLOB CHECK (length(timestamp_mark) = 12),
    rx_bytes INTEGER NOT NULL,
    tx_bytes INTEGER NOT NULL
) STRICT;
CREATE TABLE pending (
    device_id TEXT PRIMARY KEY REFERENCES devices (id) ON DELETE CASCADE,
    purpose TEXT NOT NULL CHECK (purpose IN ('enrol', 'rotate')),
    public_key BLOB NOT NULL UNIQUE CHECK (length(public_key) = 32),
    preshared_key BLOB CHECK (length(preshared_key) = 32),
    private_key BLOB CHECK (length(private_key) = 32),
    expires REAL
) STRICT;
CREATE TABLE retired (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    until REAL NOT NULL
) STRICT;
"""

# Entry n leads from version n to n + 1. Entries are only ever added.
MIGRATIONS: list[str] = [VERSION_1]


def current_version() -> int:
    """The version this program writes."""
    return len(MIGRATIONS)


def migrate(db: sqlite3.Connection) -> None:
    """Bring a file up to the current version, each step whole or not at all."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        with transaction(db):
            for statement in statements(script):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {number}")


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has rolled back by itself
            db.execute("ROLLBACK")
        raise


def statements(script: str) -> list[str]:
    """A script's statements one by one (executescript would commit between them)."""
    found, pending = [], ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending.strip())
            pending = ""
    return found
