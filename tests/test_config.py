"""How a run is configured."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower import config
from lopower.config import RunConfig, default_data, parse_listen, remembered
from lopower.devices.errors import UserError
from lopower.devices.settings import Settings


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("51820", ("", 51820)),
        (" 0 ", ("", 0)),
        ("10.0.0.1:5", ("10.0.0.1", 5)),
        ("[::]:5", ("::", 5)),
        ("[2001:db8::1]:65535", ("2001:db8::1", 65535)),
    ],
)
def test_where_to_listen(text: str, listen: tuple[str, int]) -> None:
    assert parse_listen(text) == listen


@pytest.mark.parametrize(
    "text",
    ["", "x", ":5", "10.0.0.1", "10.0.0.1:x", "10.0.0.1:65536", "::1:5", "gw.example:5", "-1"],
)
def test_where_nobody_can_listen(text: str) -> None:
    with pytest.raises(UserError):
        parse_listen(text)


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        _, port = parse_listen(text)
    except UserError:
        return
    assert 0 <= port <= 65535


def test_the_default_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert default_data() == Path("/home/ada/.local/state/lopower")
    monkeypatch.setenv("XDG_STATE_HOME", "relative: to be ignored")
    assert default_data() == Path("/home/ada/.local/state/lopower")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_data() == Path("/state/lopower")


def test_where_clients_find_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "guess_host", lambda: "10.9.8.7")

    def where(listen: str, endpoint: str | None = None) -> str:
        found = RunConfig(tmp_path, (listen, 0), endpoint).client_endpoint(99)
        return str(found)

    assert where("") == "10.9.8.7:99"
    assert where("0.0.0.0") == "10.9.8.7:99"
    assert where("10.0.0.1") == "10.0.0.1:99"
    assert where("::1") == "[::1]:99"
    assert where("10.0.0.1", "gw") == "gw:99"
    assert where("10.0.0.1", "gw:1") == "gw:1"
    monkeypatch.setattr(config, "guess_host", lambda: None)
    assert where("") == "None"


def test_only_what_differs_is_remembered(tmp_path: Path) -> None:
    assert remembered(Settings(), RunConfig(tmp_path)) == {}
    assert remembered(Settings(), RunConfig(tmp_path, ("", 0))) == {}
    told = RunConfig(tmp_path, ("", 5), "gw", ipv4=False)
    assert remembered(Settings(), told) == {"listen_port": 5, "endpoint": "gw", "ipv4": False}


def test_a_configuration_can_be_handed_on(tmp_path: Path) -> None:
    plain = RunConfig(tmp_path)
    full = RunConfig(
        tmp_path,
        ("::1", 5),
        "gw",
        "system",
        ["10.0.0.0/8"],
        False,
        True,
        tmp_path / "x.pcap",
        ["1.1.1.1"],
        1400,
        "debug",
    )
    for one in (plain, full):
        assert RunConfig.from_json(one.to_json()) == one
