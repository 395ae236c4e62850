"""The registry keeps what it is told, and touches no file it does not understand."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from lopower.devices import keys, schema
from lopower.devices.addresses import REMEMBER_SECONDS
from lopower.devices.device import Runtime
from lopower.devices.errors import (
    Conflict,
    NotFound,
    RegistryCorrupt,
    RegistryError,
    RegistryNewer,
    UserError,
)
from lopower.devices.registry import FILE, Registry, check_file, read_settings
from lopower.devices.settings import Settings
from lopower.endpoint import Endpoint
from tests.devices.conftest import START, AddDevice, Clock, files_hold


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_registry_is_its_owners_alone(registry: Registry, add: AddDevice, data: Path) -> None:
    add()
    assert mode(data) == 0o700
    for path in data.iterdir():
        assert mode(path) == 0o600, path.name


def test_an_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Registry(tmp_path).close()
    assert mode(tmp_path) == 0o755


def test_it_remembers_everything(data: Path, registry: Registry, add: AddDevice) -> None:
    device = add("lamp", rules=["10.0.0.0/8"], addressing="alias", fragments_ok=False)
    update = Runtime(device.id, Endpoint("2001:db8::1", 4242), 123.5, b"t" * 12, 2**40, 7)
    registry.save_runtime([update])
    identity = (registry.gateway_id, registry.server_private_key)
    before = registry.device(device.id)
    registry.close()
    with Registry(data) as again:
        assert again.devices() == [before]
        assert (again.gateway_id, again.server_private_key) == identity
    assert before is not None
    assert before.rules == ("10.0.0.0/8",)
    assert (before.addressing, before.fragments_ok) == ("alias", False)
    assert before.last_endpoint == Endpoint("2001:db8::1", 4242)
    assert (before.last_handshake, before.timestamp_mark) == (123.5, b"t" * 12)
    assert (before.rx_bytes, before.tx_bytes) == (2**40, 7)


def test_the_server_key_pair_fits(registry: Registry) -> None:
    assert keys.public_of(registry.server_private_key) == registry.server_public_key


def test_no_secret_shows_in_a_repr(registry: Registry, add: AddDevice) -> None:
    device = add()
    (pending,) = registry.pending()
    shown = repr(device) + repr(pending) + repr(registry)
    for secret in (device.preshared_key, pending.private_key, registry.server_private_key):
        assert secret
        assert repr(secret)[2:-1] not in shown
        assert keys.encode(secret) not in shown


def test_addresses_count_up_and_stay(registry: Registry, add: AddDevice) -> None:
    first, second, third = add("a"), add("b"), add("c")
    assert first.addresses == ["10.90.0.2", "fd7a:115c:a1e0:9909::2"]
    assert third.addresses == ["10.90.0.4", "fd7a:115c:a1e0:9909::4"]
    registry.revoke(second.id)
    registry.rename(third.id, "z")
    assert registry.find("z").addresses == third.addresses


def test_an_address_is_not_reused_while_it_is_remembered(
    registry: Registry, add: AddDevice, clock: Clock
) -> None:
    gone = add("gone")
    registry.revoke(gone.id)
    clock.now += REMEMBER_SECONDS - 1
    assert add("other").ipv4 != gone.ipv4
    clock.now += 1
    assert add("third").ipv4 == gone.ipv4


def test_the_same_name_gets_its_address_back(registry: Registry, add: AddDevice) -> None:
    gone = add("gone")
    registry.revoke(gone.id)
    add("other")
    back = add("gone")
    assert back.addresses == gone.addresses
    assert back.id != gone.id


def test_all_addresses_taken_is_a_clear_error(registry: Registry, add: AddDevice) -> None:
    registry.save_settings(ipv4_range="10.1.0.0/28")
    for number in range(6):
        add(f"d{number}")
    with pytest.raises(UserError, match=r"All 6 device addresses of 10\.1\.0\.0/28 are taken"):
        add("one-too-many")
    assert len(registry.devices()) == 6


def test_with_ipv4_off_devices_have_none_and_get_it_back(
    registry: Registry, add: AddDevice, data: Path
) -> None:
    device = add()
    registry.save_settings(ipv4=False)
    assert registry.find("lamp").ipv4 is None
    assert registry.find("lamp").addresses == ["fd7a:115c:a1e0:9909::2"]
    registry.save_settings(ipv4=True)
    assert registry.find("lamp").ipv4 == device.ipv4
    registry.close()
    with Registry(data, ipv4=False) as told:
        assert told.devices()[0].ipv4 is None


def test_names_are_unique_and_found_by_name_or_id(registry: Registry, add: AddDevice) -> None:
    device = add("lamp")
    assert registry.find("Lamp ") == registry.find(device.id) == device
    with pytest.raises(Conflict, match="already a device called 'lamp'"):
        add("lamp")
    other = add("other")
    with pytest.raises(Conflict):
        registry.rename(other.id, "lamp")
    assert registry.rename(device.id, "lamp").name == "lamp"
    with pytest.raises(NotFound, match="no device called 'nobody'"):
        registry.find("nobody")
    with pytest.raises(NotFound):
        registry.rename("nobody", "x")


def test_keys_are_unique(registry: Registry, add: AddDevice) -> None:
    device = add("lamp")
    with pytest.raises(Conflict, match="'lamp' already uses this public key"):
        add("other", public_key=device.public_key)
    with pytest.raises(Conflict, match="the gateway's own public key"):
        add("other", public_key=registry.server_public_key)
    rotated = keys.generate()
    registry.set_pending_rotation(device.id, rotated.public, None, None, None)
    with pytest.raises(Conflict, match="'lamp' already uses"):
        add("other", public_key=rotated.public)


def test_switches(registry: Registry, add: AddDevice) -> None:
    device = add()
    assert not registry.set_enabled(device.id, False).enabled
    assert registry.set_rules(device.id, ["a", "b"]).rules == ("a", "b")
    assert registry.set_addressing(device.id, "alias").addressing == "alias"
    registry.save_runtime([Runtime(device.id, None, None, b"t" * 12, 0, 0)])
    assert registry.forget_timestamp(device.id).timestamp_mark is None


def test_a_batch_skips_who_is_gone_and_bounds_counters(registry: Registry, add: AddDevice) -> None:
    device = add()
    registry.save_runtime(
        [Runtime("gone", None, None, None, 1, 1), Runtime(device.id, None, None, None, 2**70, 3)]
    )
    assert registry.find("lamp").rx_bytes == 2**63 - 1
    registry.save_runtime([])


def test_private_keys_go_at_the_first_handshake(
    registry: Registry, add: AddDevice, data: Path
) -> None:
    device = add()
    pending = registry.pending_for(device.id)
    assert pending is not None
    assert pending.private_key is not None
    assert files_hold(data, pending.private_key)
    assert registry.enrolment_finished(device.id, b"another key") is None
    assert registry.enrolment_finished(device.id, pending.public_key) == device
    assert files_hold(data, pending.private_key) == []
    assert registry.pending() == []
    assert registry.enrolment_finished(device.id) is None


def test_private_keys_go_at_the_time_limit(
    registry: Registry, add: AddDevice, data: Path, clock: Clock
) -> None:
    device = add()
    pending = registry.pending_for(device.id)
    assert pending is not None
    assert pending.private_key is not None
    assert registry.expire(START + 99) == 0
    assert registry.expire(START + 100) == 1
    assert registry.expire(START + 101) == 0
    assert files_hold(data, pending.private_key) == []
    left = registry.pending_for(device.id)
    assert left is not None
    assert left.private_key is None
    assert registry.device(device.id) == device, "the device itself stays"


def test_private_keys_go_when_the_registry_is_opened_too_late(
    registry: Registry, add: AddDevice, data: Path, clock: Clock
) -> None:
    add()
    (pending,) = registry.pending()
    assert pending.private_key is not None
    registry.close()
    clock.now += 1000
    with Registry(data, clock=clock):
        assert files_hold(data, pending.private_key) == []


def test_a_reader_only_delays_the_erasing(registry: Registry, add: AddDevice, data: Path) -> None:
    device = add()
    (pending,) = registry.pending()
    assert pending.private_key is not None
    reader = sqlite3.connect(data / FILE, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM devices").fetchone()
    registry._db.execute("PRAGMA busy_timeout = 1")
    registry.enrolment_finished(device.id)
    reader.close()
    registry.save_runtime([])
    assert files_hold(data, pending.private_key) == []


def test_revoking_erases_every_secret(registry: Registry, add: AddDevice, data: Path) -> None:
    device = add()
    (pending,) = registry.pending()
    registry.revoke(device.id)
    assert registry.devices() == registry.pending() == []
    assert pending.private_key is not None
    assert device.preshared_key is not None
    assert files_hold(data, pending.private_key) == []
    assert files_hold(data, device.preshared_key) == []


def test_a_rotation_takes_over_at_its_first_handshake(
    registry: Registry, add: AddDevice, data: Path
) -> None:
    device = add()
    registry.enrolment_finished(device.id)
    registry.save_runtime([Runtime(device.id, None, 1.0, b"t" * 12, 1, 1)])
    new, psk = keys.generate(), keys.preshared()
    registry.set_pending_rotation(device.id, new.public, psk, new.private, START + 10)
    current = registry.device(device.id)
    assert current is not None
    assert current.public_key == device.public_key, "the old keys still work"
    registry.expire(START + 10)
    assert registry.enrolment_finished(device.id, device.public_key) is None
    taken = registry.enrolment_finished(device.id, new.public)
    assert taken is not None
    assert (taken.public_key, taken.preshared_key) == (new.public, psk)
    assert taken.timestamp_mark is None, "timestamps belong to a key"
    assert device.preshared_key is not None
    assert files_hold(data, device.preshared_key) == []
    assert files_hold(data, new.private) == []


def test_keys_can_be_replaced_at_once(registry: Registry, add: AddDevice) -> None:
    device = add()
    new = keys.generate()
    replaced = registry.replace_keys(device.id, new.public, None, new.private, None)
    assert (replaced.public_key, replaced.preshared_key) == (new.public, None)
    pending = registry.pending_for(device.id)
    assert pending is not None
    assert (pending.purpose, pending.private_key) == ("enrol", new.private)


def test_settings_are_checked_and_kept(registry: Registry, data: Path) -> None:
    registry.save_settings(listen_port=5000, endpoint="gw.example:1234")
    assert registry.settings().listen_port == 5000
    for bad in ({"listen_port": 0}, {"endpoint": "no host"}, {"ipv4_range": "x"}, {"colour": 1}):
        with pytest.raises(UserError):
            registry.save_settings(**bad)
    assert registry.settings() == Settings(5000, "gw.example:1234")
    assert read_settings(data) == registry.settings()
    assert read_settings(data / "elsewhere") == Settings()


def test_ranges_stay_while_devices_have_addresses(registry: Registry, add: AddDevice) -> None:
    device = add()
    with pytest.raises(Conflict, match="1 device has its address"):
        registry.save_settings(ipv4_range="10.1.0.0/16")
    registry.revoke(device.id)
    assert registry.save_settings(ipv4_range="10.1.0.0/16").plan.gateway4.packed == b"\n\1\0\1"
    assert add().ipv4 == b"\n\1\0\2"


def test_several_threads_may_use_it(registry: Registry, add: AddDevice) -> None:
    threads = [threading.Thread(target=add, args=(f"d{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({device.ipv4 for device in registry.devices()}) == 8


# Files that are not ours to touch


def snapshot(path: Path) -> tuple[bytes, int]:
    return path.read_bytes(), path.stat().st_mtime_ns


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="emptied"),
        pytest.param(lambda content: b"hello", id="another file"),
        pytest.param(lambda content: content[: len(content) // 2], id="cut in half"),
        pytest.param(lambda content: content[:4096] + b"\xff" * 8192 + content[12288:], id="trash"),
        pytest.param(lambda content: content[:100] + b"\xff" * 3996 + content[4096:], id="schema"),
    ],
)
def test_a_damaged_file_is_reported_and_left_alone(
    registry: Registry, add: AddDevice, data: Path, damage: object
) -> None:
    for number in range(20):
        add(f"d{number}")
    registry.close()
    path = data / FILE
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    before = snapshot(path)
    with pytest.raises(RegistryCorrupt, match="was left untouched") as refused:
        Registry(data)
    assert "\n" not in str(refused.value)
    assert snapshot(path) == before
    assert read_settings(data) == Settings()


def test_a_newer_file_is_refused_and_left_alone(registry: Registry, data: Path) -> None:
    registry.close()
    path = data / FILE
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 999")
    db.close()
    before = snapshot(path)
    with pytest.raises(RegistryNewer, match="newer LoPower"):
        Registry(data)
    assert snapshot(path) == before


def test_another_programs_database_is_refused(data: Path) -> None:
    data.mkdir()
    db = sqlite3.connect(data / FILE)
    db.execute("CREATE TABLE their (thing)")
    db.commit()
    db.close()
    with pytest.raises(RegistryCorrupt, match="belongs to another program"):
        Registry(data)


def test_a_registry_without_its_key_is_refused(registry: Registry, data: Path) -> None:
    registry._db.execute("DELETE FROM server")
    registry.close()
    with pytest.raises(RegistryCorrupt, match="no server key"):
        Registry(data)


def test_what_the_system_refuses_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(RegistryError, match="cannot be used: Is a directory"):
        Registry(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot create the data directory"):
        Registry(tmp_path / "file" / "data")


def test_a_full_disk_is_one_sentence(registry: Registry, add: AddDevice) -> None:
    registry._db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(RegistryError, match="cannot be used: database or disk is full"):
        add(rules=["x" * 200_000])
    assert registry.devices() == []


def test_a_half_made_registry_is_made_again(data: Path) -> None:
    data.mkdir()
    for name in ("lopower.new", "lopower.new-wal"):
        (data / name).write_bytes(b"interrupted")
    Registry(data).close()
    assert {path.name for path in data.iterdir()} == {FILE}


# Migrations


def test_an_older_file_is_brought_forward(
    registry: Registry, add: AddDevice, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = add()
    registry.close()
    newer = "CREATE TABLE more (x) STRICT; ALTER TABLE devices RENAME COLUMN rules TO allow;"
    monkeypatch.setattr(
        schema,
        "MIGRATIONS",
        [*schema.MIGRATIONS, newer.replace("(x)", "(x INTEGER)").replace("; ALTER", ";\nALTER")],
    )
    with pytest.raises(RegistryError, match="rules"):  # this program does not know the new column
        Registry(data).devices()
    db = sqlite3.connect(data / FILE)
    assert db.execute("PRAGMA user_version").fetchone() == (2,)
    assert db.execute("SELECT id, allow FROM devices").fetchall() == [(device.id, "[]")]
    db.close()


def test_a_migration_happens_whole_or_not_at_all(
    registry: Registry, add: AddDevice, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = add()
    registry.close()
    with monkeypatch.context() as patch:
        broken = "CREATE TABLE half (x INTEGER) STRICT;\nINSERT INTO nowhere VALUES (1);"
        patch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, broken])
        with pytest.raises(RegistryError, match="nowhere"):
            Registry(data)
    check_file(data / FILE)
    with Registry(data) as again:
        assert again.devices() == [device]
        tables = again._db.execute("SELECT name FROM sqlite_schema").fetchall()
        assert ("half",) not in tables


def test_statements_are_split_as_sqlite_reads_them() -> None:
    assert schema.statements("SELECT 1;\nSELECT\n 2;\n") == ["SELECT 1;", "SELECT\n 2;"]
    assert all(
        statement.startswith("CREATE TABLE") for statement in schema.statements(schema.VERSION_1)
    )


def test_the_file_is_plain_enough_to_be_inspected(registry: Registry, data: Path) -> None:
    registry.save_settings(endpoint="gw.example")
    rows = registry._db.execute("SELECT * FROM settings").fetchall()
    assert rows == [("endpoint", json.dumps("gw.example"))]
    assert os.listdir(data)
