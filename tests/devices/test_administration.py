"""The operations, as the command line and the gateway use them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lopower.devices import administration, hosts, keys
from lopower.devices.administration import OPERATIONS, Administration, Change
from lopower.devices.device import Runtime
from lopower.devices.errors import (
    Conflict,
    InUse,
    NotFound,
    RegistryError,
    UserError,
    from_problem,
)
from lopower.devices.hosts import HostPort
from lopower.devices.lock import DataLock
from lopower.devices.profiles import reader
from lopower.devices.profiles.input import PLACEHOLDER
from lopower.devices.registry import Registry
from tests.devices.conftest import START, Clock, files_hold

ENDPOINT = HostPort("192.168.1.10", 51820)
OWN_KEY = keys.encode(keys.generate().public)


def routes(rules: tuple[str, ...]) -> list[IPv4Network | IPv6Network]:
    return [ip_network(rule) for rule in rules]


class FakeLive:
    """What a gateway would know."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {}

    def device(self, device_id: str) -> Mapping[str, Any] | None:
        return self.values.get(device_id)

    def status(self) -> Mapping[str, Any]:
        return {"backend": "system", "listen_port": 4711}

    def knocks(self) -> Sequence[Mapping[str, Any]]:
        return [{"kind": "unknown public key", "source": "10.0.0.9:1", "count": 2, "last": 3.0}]

    def flows(self) -> Sequence[Mapping[str, Any]]:
        return [{"device": "lamp"}]

    def refusals(self, device_id: str) -> Sequence[Mapping[str, Any]]:
        return [{"address": "10.0.0.1", "port": 1, "protocol": "tcp", "reason": "x", "count": 1}]


@pytest.fixture
def changes() -> list[Change]:
    return []


@pytest.fixture
def admin(registry: Registry, clock: Clock, changes: list[Change]) -> Administration:
    return Administration(
        registry, on_change=changes.append, routes=routes, endpoint=ENDPOINT, clock=clock
    )


def test_enrolling(admin: Administration, changes: list[Change]) -> None:
    enrolled = admin.call("enroll", {"name": "Desk Lamp"})
    assert enrolled["name"] == "desk-lamp"
    assert enrolled["addresses"] == ["10.90.0.2", "fd7a:115c:a1e0:9909::2"]
    assert enrolled["expires"] == START + 24 * 3600
    profile = reader.read(enrolled["profile"])
    assert keys.public_of(profile.private_key) == keys.decode(enrolled["public_key"])
    assert profile.public_key == admin.registry.server_public_key
    (device,) = admin.registry.devices()
    assert profile.preshared_key == device.preshared_key
    assert device.public_key == keys.decode(enrolled["public_key"])
    assert changes == [Change("enrolled", device)]
    assert profile.endpoint == ENDPOINT
    assert json.loads(json.dumps(enrolled)) == enrolled


@pytest.mark.parametrize(
    ("kind", "addressing", "fragments"),
    [("wg-quick", "native", True), ("esphome", "alias", False), ("tasmota", "alias", False)],
)
def test_a_device_is_treated_as_its_client_needs(
    admin: Administration, kind: str, addressing: str, fragments: bool
) -> None:
    admin.enroll("lamp", kind)
    device = admin.registry.find("lamp")
    assert (device.profile, device.addressing, device.fragments_ok) == (kind, addressing, fragments)


def test_rules_become_routes(admin: Administration) -> None:
    enrolled = admin.enroll("lamp", rules=["192.168.7.0/24"])
    assert "192.168.7.0/24" in reader.read(enrolled["profile"]).allowed_ips
    assert admin.show("lamp")["rules"] == ["192.168.7.0/24"]
    assert admin.rules("lamp", ["10.0.0.0/8"])["rules"] == ["10.0.0.0/8"]
    with pytest.raises(UserError, match="does not appear to be"):
        admin.rules("lamp", ["nonsense"])
    with pytest.raises(UserError):
        admin.enroll("other", rules=["nonsense"])
    assert admin.show("lamp")["rules"] == ["10.0.0.0/8"]


def test_nothing_is_kept_of_what_was_refused(admin: Administration, changes: list[Change]) -> None:
    admin.registry.save_settings(ipv4=False)
    for arguments in (
        {"name": "x y/z"},
        {"name": "a", "profile": "windows"},
        {"name": "a", "profile": "esphome"},
        {"name": "a", "profile": "tasmota", "psk": False},
        {"name": "a", "public_key": "short"},
        {"name": "a", "endpoint": "no host"},
    ):
        with pytest.raises(UserError):
            admin.call("enroll", arguments)
    assert admin.devices() == changes == []


def test_a_device_may_keep_its_own_key(admin: Administration) -> None:
    enrolled = admin.enroll("lamp", public_key=OWN_KEY)
    assert enrolled["public_key"] == OWN_KEY
    assert enrolled["expires"] is None
    assert PLACEHOLDER in enrolled["profile"]
    assert admin.profile("lamp")["profile"] == enrolled["profile"]
    with pytest.raises(Conflict, match="'lamp' already uses this public key"):
        admin.enroll("other", public_key=OWN_KEY)
    with pytest.raises(Conflict, match="already has this public key"):
        admin.rotate("lamp", public_key=OWN_KEY)
    own = keys.encode(admin.registry.server_public_key)
    with pytest.raises(Conflict, match="gateway's own"):
        admin.enroll("other", public_key=own)


def test_without_a_preshared_key(admin: Administration) -> None:
    enrolled = admin.enroll("lamp", "arduino", psk=False)
    assert "no preshared key" in enrolled["profile"]
    assert admin.registry.find("lamp").preshared_key is None
    admin.enroll("other", "tasmota")
    with pytest.raises(UserError, match="Tasmota needs a preshared key"):
        admin.rotate("other", psk=False)


def test_the_profile_again_until_it_is_used(admin: Administration, clock: Clock) -> None:
    enrolled = admin.enroll("lamp")
    assert admin.profile("lamp") == enrolled
    assert admin.profile("lamp", endpoint="[2001:db8::1]:9")["endpoint"] == "[2001:db8::1]:9"
    clock.now += 24 * 3600
    with pytest.raises(Conflict, match="profile of 'lamp' has expired"):
        admin.profile("lamp")
    admin.rotate("lamp")
    admin.registry.enrolment_finished(admin.registry.find("lamp").id)
    with pytest.raises(Conflict, match="'lamp' is enrolled and its private key erased"):
        admin.profile("lamp")


def test_rotating(admin: Administration, changes: list[Change], data: Path) -> None:
    old = admin.enroll("lamp")
    device = admin.registry.find("lamp")
    admin.registry.enrolment_finished(device.id)
    new = admin.rotate("lamp")
    assert new["public_key"] != old["public_key"]
    assert new["addresses"] == old["addresses"]
    assert admin.show("lamp")["public_key"] == old["public_key"], "the old key still works"
    assert admin.show("lamp")["pending"] == {
        "purpose": "rotate",
        "expires": START + 24 * 3600,
        "profile_available": True,
    }
    assert changes[-1] == Change("rotated", device)
    private = reader.read(new["profile"]).private_key
    admin.registry.enrolment_finished(device.id, keys.decode(new["public_key"]))
    assert admin.show("lamp")["public_key"] == new["public_key"]
    assert files_hold(data, private) == []


def test_rotating_a_lost_device_shuts_it_out_at_once(admin: Administration) -> None:
    admin.enroll("lamp")
    new = admin.rotate("lamp", now=True)
    assert admin.show("lamp")["public_key"] == new["public_key"]


def test_changes_are_announced(admin: Administration, changes: list[Change]) -> None:
    admin.enroll("lamp")
    assert admin.rename("lamp", "Ceiling Lamp")["name"] == "ceiling-lamp"
    assert not admin.disable("ceiling lamp")["enabled"]
    assert admin.enable("ceiling-lamp")["enabled"]
    assert admin.addressing("ceiling-lamp", "alias")["addressing"] == "alias"
    admin.forget_timestamp("ceiling-lamp")
    assert admin.settings({"endpoint": "gw.example"})["endpoint"] == "gw.example"
    assert admin.revoke("ceiling-lamp")["name"] == "ceiling-lamp"
    kinds = [change.kind for change in changes]
    assert kinds == ["enrolled", *["changed"] * 5, "settings", "revoked"]
    assert changes[-1].device is not None
    assert admin.devices() == []


@pytest.mark.parametrize(
    "operation",
    ["show", "rotate", "profile", "rename", "enable", "disable", "rules", "addressing", "revoke"],
)
def test_nobody_of_that_name(admin: Administration, operation: str) -> None:
    more: dict[str, dict[str, Any]] = {
        "rename": {"new_name": "x"},
        "rules": {"rules": []},
        "addressing": {"addressing": "alias"},
    }
    with pytest.raises(NotFound, match="no device called 'ghost'"):
        admin.call(operation, {"name": "ghost", **more.get(operation, {})})


def test_what_is_shown_holds_no_secret(admin: Administration) -> None:
    profile = reader.read(admin.enroll("lamp")["profile"])
    admin.rotate("lamp")
    shown = json.dumps([admin.devices(), admin.show("lamp"), admin.status(), admin.settings()])
    device = admin.registry.find("lamp")
    pending = admin.registry.pending_for(device.id)
    assert pending is not None
    secrets = (
        profile.private_key,
        profile.preshared_key,
        pending.private_key,
        pending.preshared_key,
        admin.registry.server_private_key,
    )
    for secret in secrets:
        assert secret is not None
        assert keys.encode(secret) not in shown
        assert secret.hex() not in shown


def test_without_a_gateway_everybody_is_offline(admin: Administration, clock: Clock) -> None:
    admin.enroll("lamp")
    device = admin.registry.find("lamp")
    admin.registry.save_runtime([Runtime(device.id, None, clock.now, None, 5, 6)])
    (shown,) = admin.devices()
    assert (shown["online"], shown["last_handshake"]) == (False, START)
    status = admin.status()
    assert (status["running"], status["online"], status["devices"]) == (False, 0, 1)
    assert (status["rx_bytes"], status["tx_bytes"]) == (5, 6)
    assert admin.knocks() == admin.flows() == []


def test_what_a_gateway_knows_is_shown(registry: Registry, clock: Clock) -> None:
    live = FakeLive()
    admin = Administration(registry, live=live, endpoint=ENDPOINT, clock=clock)
    admin.enroll("lamp")
    device = registry.find("lamp")
    live.values[device.id] = {"last_seen": START - 180, "rx_bytes": 9, "clock_offset": 3.5}
    shown = admin.show("lamp")
    assert (shown["online"], shown["rx_bytes"], shown["clock_offset"]) == (True, 9, 3.5)
    assert shown["refusals"][0]["port"] == 1
    live.values[device.id]["last_seen"] = START - 181
    assert not admin.show("lamp")["online"]
    live.values[device.id] = {"online": True}
    assert admin.show("lamp")["online"]
    status = admin.status()
    assert (status["running"], status["online"]) == (True, 1)
    assert (status["backend"], status["listen_port"]) == ("system", 4711)
    assert admin.knocks()[0]["count"] == 2
    assert admin.flows() == [{"device": "lamp"}]
    assert admin.settings({"endpoint": "gw"})["endpoint"] == "gw"
    with pytest.raises(Conflict, match="Stop the gateway"):
        admin.settings({"listen_port": 1})


def test_where_devices_find_the_gateway(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = Administration(registry)
    monkeypatch.setattr(administration, "guess_host", lambda: "10.1.2.3")
    assert admin.client_endpoint() == ("10.1.2.3", 51820)
    assert admin.endpoint_guessed
    registry.save_settings(listen_port=5000)
    assert admin.client_endpoint("gw") == ("gw", 5000)
    registry.save_settings(endpoint="gw.example:7")
    assert admin.client_endpoint() == ("gw.example", 7)
    assert not admin.endpoint_guessed
    admin.endpoint = HostPort("10.0.0.1", 99)
    assert admin.client_endpoint() == ("10.0.0.1", 99)
    assert admin.client_endpoint("gw") == ("gw", 99)


def test_without_any_address(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(administration, "guess_host", lambda: None)
    admin = Administration(registry)
    assert admin.status()["endpoint"] is None
    with pytest.raises(UserError, match="say with --endpoint"):
        admin.enroll("lamp")


def test_guessing_gives_an_address() -> None:
    guess = hosts.guess_host()
    assert guess is None or HostPort(guess, 1).version


def test_every_operation_declares_its_arguments() -> None:
    for name, (method, schema) in OPERATIONS.items():
        expected = set(inspect.signature(method).parameters) - {"self"}
        assert {str(key) for key in schema.schema} == expected, name


@pytest.mark.parametrize(
    ("operation", "arguments", "sentence"),
    [
        ("explode", {}, "no operation called 'explode'"),
        ("call", {}, "no operation"),
        ("show", {}, "required key not provided"),
        ("show", {"name": 5}, "expected str"),
        ("show", {"name": "a", "colour": "red"}, "extra keys not allowed"),
        ("rules", {"name": "a", "rules": "x"}, "expected a list"),
        ("enroll", {"name": "a", "psk": "yes"}, "expected bool"),
        ("addressing", {"name": "a", "addressing": "x"}, "must be one of"),
        ("settings", {"changes": {"listen_port": "x"}}, "expected int"),
    ],
)
def test_wrong_arguments(
    admin: Administration, operation: str, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        admin.call(operation, arguments)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=4,
)
ARGUMENTS = st.dictionaries(
    st.sampled_from(["name", "new_name", "profile", "rules", "changes", "endpoint", "x"]), JSON
)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(operation=st.sampled_from(sorted(OPERATIONS)), arguments=ARGUMENTS)
def test_any_json_is_done_or_refused(
    admin: Administration, operation: str, arguments: dict[str, Any]
) -> None:
    try:
        json.dumps(admin.call(operation, arguments))
    except UserError:
        return


def test_errors_survive_the_way_over_the_socket() -> None:
    for kind in (UserError, Conflict, NotFound, InUse, RegistryError):
        again = from_problem(kind.status, kind.exit_code, "Sentence.")
        assert (type(again), str(again)) == (kind, "Sentence.")


# The lock


def test_one_owner_at_a_time(data: Path) -> None:
    with DataLock(data, "gateway").acquire():
        with pytest.raises(InUse, match=r"A gateway .* is already running"):
            DataLock(data, "gateway").acquire(patience=60)
        with pytest.raises(InUse, match="A gateway"):
            DataLock(data).acquire(patience=0)
    with DataLock(data) as lock:
        assert not DataLock(data).try_acquire()
        assert "Another command" in lock.sentence()
    lock.release()


def test_a_lock_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(InUse, match="Cannot open"):
        DataLock(tmp_path).try_acquire()
    assert DataLock(tmp_path).holder() == (0, "process")
