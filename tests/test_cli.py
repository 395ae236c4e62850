"""The command line: what other programs rely on, and one sentence for every mistake."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import cv2
import pytest
import zxingcpp

import lopower.demo
import lopower.service
from lopower import cli, view
from lopower.config import RunConfig
from lopower.devices import keys
from lopower.devices.errors import UserError
from lopower.devices.lock import DataLock
from lopower.devices.profiles import reader
from lopower.devices.registry import FILE, Registry
from tests.api.test_control import gateway

PROGRAM = Path(sys.executable).parent / "lopower"
OWN_KEY = keys.encode(keys.generate().public)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("LOPOWER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LOPOWER_DATA", str(tmp_path / "data"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


class Result:
    """What a command left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Cli = Callable[..., Result]


@pytest.fixture
def cli_(capfd: pytest.CaptureFixture[str]) -> Cli:
    def run(*arguments: str) -> Result:
        capfd.readouterr()
        try:
            code = cli.main(arguments)
        except SystemExit as end:  # where the real program goes on as the gateway
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return run


def test_enrolling_for_another_program(cli_: Cli) -> None:
    found = cli_("enroll", "lamp", "--profile", "esphome", "--json").json
    assert {"id", "name", "addresses", "public_key", "profile", "expires"} <= set(found)
    assert found["addresses"] == ["10.90.0.2", "fd7a:115c:a1e0:9909::2"]
    assert "wireguard:" in found["profile"]


def test_enrolling_for_a_person(cli_: Cli) -> None:
    result = cli_("enroll", "phone", "--endpoint", "10.1.2.3:99")
    assert reader.read(result.out).endpoint == ("10.1.2.3", 99)
    assert "phone has the addresses 10.90.0.2" in result.err
    assert "lopower profile phone" in result.err
    assert cli_("profile", "phone", "--endpoint", "10.1.2.3:99").out == result.out


def test_a_guessed_endpoint_is_called_a_guess(cli_: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lopower.devices.administration.guess_host", lambda: "10.9.8.7")
    assert "10.9.8.7:51820, a guess" in cli_("enroll", "phone").err
    cli_("settings", "--endpoint", "gw.example")
    assert "guess" not in cli_("enroll", "other").err


def test_listing_devices(cli_: Cli) -> None:
    assert cli_("devices", "--json").json == []
    assert cli_("devices").out == ""
    cli_("enroll", "lamp", "--public-key", OWN_KEY)
    (device,) = cli_("devices", "--json").json
    wanted = {"id", "name", "addresses", "online", "last_handshake", "endpoint"}
    assert wanted | {"rx_bytes", "tx_bytes"} <= set(device)
    assert (device["online"], device["endpoint"], device["rx_bytes"]) == (False, None, 0)
    assert device["public_key"] == OWN_KEY
    assert cli_("devices").out == "lamp\toffline\t10.90.0.2\tfd7a:115c:a1e0:9909::2\t-\n"


def test_the_life_of_a_device(cli_: Cli) -> None:
    cli_("enroll", "lamp")
    assert "lamp is now called desk-lamp" in cli_("rename", "lamp", "Desk Lamp").err
    assert "is disabled" in cli_("disable", "desk-lamp").err
    assert "disabled" in cli_("devices").out
    assert cli_("enable", "desk-lamp", "--json").json["enabled"]
    assert cli_("rules", "desk-lamp").out == "@default\n"
    assert cli_("rules", "desk-lamp", "10.0.0.0/8", "nas.example:80/tcp").code == 0
    assert cli_("rules", "desk-lamp", "--json").json == ["10.0.0.0/8", "nas.example:80/tcp"]
    assert cli_("rules", "desk-lamp", "--default", "--json").json["rules"] == []
    assert cli_("forget-timestamp", "desk-lamp").code == 0
    old = cli_("show", "desk-lamp", "--json").json["public_key"]
    new = cli_("rotate", "desk-lamp", "--now", "--json").json["public_key"]
    assert new != old
    assert cli_("show", "desk-lamp", "--json").json["public_key"] == new
    assert f"public key\t{new}\n" in cli_("show", "desk-lamp").out
    assert "is revoked" in cli_("revoke", "desk-lamp").err
    assert cli_("devices", "--json").json == []


def test_status_and_settings(cli_: Cli) -> None:
    assert cli_("settings", "--listen-port", "5000", "--no-ipv4", "--json").json["ipv4"] is False
    status = cli_("status", "--json").json
    assert (status["running"], status["devices"], status["listen_port"]) == (False, 0, 5000)
    assert status["addresses"] == ["fd7a:115c:a1e0:9909::1"]
    assert "running\tno\n" in cli_("status").out
    cli_("settings", "--endpoint", "gw.example")
    assert cli_("settings", "--endpoint", "", "--json").json["endpoint"] is None


def test_beside_a_gateway(cli_: Cli, data: Path) -> None:
    with gateway(data) as administration:
        cli_("enroll", "lamp")
        assert [device.name for device in administration.registry.devices()] == ["lamp"]
        assert cli_("status", "--json").json["endpoint"] == "10.0.0.1:51820"
        assert cli_("revoke", "ghost").code == 3


# QR codes


def test_a_qr_code_in_a_file(cli_: Cli, tmp_path: Path) -> None:
    path = tmp_path / "code.png"
    enrolled = cli_("enroll", "phone", "--qr", str(path), "--json").json
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    (code,) = zxingcpp.read_barcodes(image)
    assert reader.read(code.text) == reader.read(enrolled["profile"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_qr_code_in_the_terminal(cli_: Cli) -> None:
    result = cli_("enroll", "phone", "--qr", "terminal")
    assert result.out.count("█") > 500
    assert "\x1b" not in result.out, "no colours outside a terminal"
    result = cli_("rotate", "phone", "--qr", "terminal", "--json")
    assert result.json["name"] == "phone"
    assert result.err.count("█") > 500
    assert cli_("profile", "phone", "--qr", "terminal").out.count("█") > 500


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--qr", "code.gif"), "'terminal' or to a .png or .svg file"),
        (("--qr", "terminal", "--profile", "esphome"), "cannot use the esphome profile"),
        (("--qr", "terminal", "--public-key", OWN_KEY), "only the device has"),
    ],
)
def test_qr_codes_that_cannot_work(cli_: Cli, arguments: tuple[str, ...], sentence: str) -> None:
    result = cli_("enroll", "lamp", *arguments)
    assert result.code == 1
    assert sentence in result.err
    assert cli_("devices").out == "", "nothing was enrolled"


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("enroll", "a b!"), 1, "cannot be a device name"),
        (("enroll", "taken"), 1, "There is already a device called 'taken'."),
        (("enroll", "x", "--public-key", "abc"), 1, "not a WireGuard public key"),
        (("enroll", "x", "--public-key", "A" * 43 + "="), 1, "weak"),
        (("enroll", "x", "--allow", "a/b"), 1, "not a protocol"),
        (("enroll", "x", "--endpoint", "a b"), 1, "not an address or a host name"),
        (("enroll", "x", "--profile", "tasmota", "--endpoint", "gw.example"), 1, "IPv4 address"),
        (("enroll", "x", "--profile", "esphome", "--endpoint", "::1"), 1, "IPv6 endpoint"),
        (("enroll", "x", "--profile", "tasmota", "--no-psk"), 1, "preshared"),
        (("settings", "--listen-port", "0"), 1, "between 1 and 65535"),
        (("settings", "--ipv4-range", "10.1.0.0/16"), 1, "1 device has its address"),
        (("rules", "taken", "x/y"), 1, "not a protocol"),
        (("run", "--listen", "nonsense"), 1, "is not PORT"),
        (("run", "--endpoint", "a b"), 1, "not an address or a host name"),
        (("run", "--allow", "a/b"), 1, "not a protocol"),
        (("watch",), 4, "No gateway is running"),
        (("profile", "ghost"), 3, "There is no device called 'ghost'."),
        (("show", "ghost"), 3, "ghost"),
        (("revoke", "ghost\x1b[31m\n"), 3, "'ghost?[31m?'"),
        (("rotate", "ghost"), 3, "ghost"),
        (("rename", "ghost", "x"), 3, "ghost"),
        (("frobnicate",), 2, "No such command 'frobnicate'."),
        (("enroll",), 2, "Missing argument"),
        (("enroll", "x", "--profile", "windows"), 2, "'windows' is not one of 'wg-quick'"),
        (("enroll", "x", "--colour"), 2, "No such option: --colour"),
        (("run", "--backend", "magic"), 2, "'magic' is not one of"),
        (("settings", "--listen-port", "x"), 2, "--listen-port"),
    ],
)
def test_every_mistake_is_one_sentence(
    cli_: Cli, data: Path, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    cli_("enroll", "taken", "--endpoint", "10.0.0.1")
    result = cli_(*arguments)
    assert (result.code, result.out) == (code, ""), result.err
    assert sentence in result.err
    assert re.fullmatch(r"lopower: .+[.?!]\n", result.err), result.err
    assert result.err.strip().isprintable()


def test_a_registry_that_cannot_be_read(cli_: Cli, data: Path) -> None:
    data.mkdir()
    (data / FILE).write_bytes(b"not a registry")
    result = cli_("devices")
    assert result.code == 5
    assert re.fullmatch(r"lopower: .* is damaged and was left untouched .*\.\n", result.err)


def test_a_data_directory_in_use(cli_: Cli, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lopower.api.access.PATIENCE", 0.05)
    monkeypatch.setattr(cli.Access.__init__, "__kwdefaults__", {"ipv4": None, "patience": 0.05})
    with DataLock(data, "gateway").acquire():
        for arguments in (("devices",), ("run",)):
            result = cli_(*arguments)
            assert result.code == 4
            assert f"A gateway (process {os.getpid()}) is already running" in result.err


def test_a_defect_shows_no_traceback(cli_: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(json: bool) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(lopower.demo, "run", explode)
    result = cli_("demo")
    assert result.code == 70
    assert "defect of LoPower's (ZeroDivisionError)" in result.err
    assert "Traceback" not in result.err
    monkeypatch.setenv("LOPOWER_DEBUG", "1")
    assert "Traceback" in cli_("demo").err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, ""),
        (PermissionError(13, "Permission denied", "x.pcap"), 1, "x.pcap: Permission denied."),
        (UserError("Sorry."), 1, "lopower: Sorry."),
    ],
)
def test_how_a_command_may_end(
    cli_: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str
) -> None:
    def end(json: bool) -> int:
        raise error

    monkeypatch.setattr(lopower.demo, "run", end)
    result = cli_("demo", "--json")
    assert result.code == code
    assert text in result.err


# Starting


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations a gateway would have been run with."""
    configs: list[RunConfig] = []

    def run(config: RunConfig) -> int:
        assert RunConfig.from_json(config.to_json()) == config
        configs.append(config)
        return 0

    def become(config: RunConfig) -> NoReturn:
        raise SystemExit(run(config))

    monkeypatch.setattr(lopower.service, "run", run)
    monkeypatch.setattr(cli, "_become_gateway", become)
    return configs


def test_running_with_every_option(cli_: Cli, started: list[RunConfig], data: Path) -> None:
    arguments = ["--listen", "10.0.0.1:5000", "--endpoint", "gw.example:99", "--backend", "system"]
    arguments += ["--allow", "10.0.0.0/8", "--allow", "@default", "--no-ipv4", "--no-view"]
    arguments += ["--pcap", "x.pcap", "--upstream", "1.1.1.1", "--log-level", "debug"]
    result = cli_("run", *arguments)
    assert (result.code, result.out) == (0, "")
    assert started == [
        RunConfig(
            data=data,
            listen=("10.0.0.1", 5000),
            endpoint="gw.example:99",
            backend="system",
            allow=["10.0.0.0/8", "@default"],
            ipv4=False,
            view=False,
            pcap=Path("x.pcap"),
            upstreams=["1.1.1.1"],
            log_level="debug",
        )
    ]


def test_options_come_before_the_environment_before_the_past(
    cli_: Cli, started: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    cli_("run", "--listen", "5000", "--endpoint", "first.example", "--no-ipv4")
    cli_("run")
    monkeypatch.setenv("LOPOWER_ENDPOINT", "env.example")
    monkeypatch.setenv("LOPOWER_LISTEN", "[::1]:6000")
    monkeypatch.setenv("LOPOWER_IPV4", "1")
    monkeypatch.setenv("LOPOWER_ALLOW", "10.0.0.0/8 @default")
    cli_("run")
    cli_("run", "--endpoint", "option.example", "--listen", "7000")
    assert [config.endpoint for config in started] == [
        *("first.example", "first.example", "env.example", "option.example")
    ]
    assert [config.listen for config in started] == [
        *(("", 5000), ("", 5000), ("::1", 6000), ("", 7000))
    ]
    assert [config.ipv4 for config in started] == [False, False, True, True]
    assert started[2].allow == ["10.0.0.0/8", "@default"]


def test_later_commands_know_the_options_of_the_run(cli_: Cli, started: list[RunConfig]) -> None:
    cli_("run", "--listen", "5000", "--endpoint", "10.5.5.5")
    profile = cli_("enroll", "lamp", "--json").json["profile"]
    assert reader.read(profile).endpoint == ("10.5.5.5", 5000)


def test_the_environment_switches_ipv4_off_for_commands(
    cli_: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOPOWER_IPV4", "no")
    assert len(cli_("enroll", "lamp", "--json").json["addresses"]) == 1


def test_the_first_run_enrols_a_device(
    cli_: Cli, started: list[RunConfig], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lopower.config.guess_host", lambda: "10.9.8.7")
    result = cli_()
    assert "Endpoint = 10.9.8.7:51820" in result.out
    assert result.out.count("█") > 500
    assert "a guess: --endpoint says otherwise" in result.err
    again = cli_("--listen", "6000")
    assert again.out == ""
    assert [config.backend for config in started] == ["system", "system"]
    with Registry(data) as registry:
        assert [device.name for device in registry.devices()] == ["phone"]


def test_help_and_version(cli_: Cli) -> None:
    assert "Exit codes: 0 done" in cli_("--help").out
    assert "~/.local/state/lopower" in cli_("run", "--help").out
    assert re.fullmatch(r"lopower \d+\.\d+\.\d+\n", cli_("--version").out)


# A terminal


class Terminal:
    """A program on a terminal of its own, as a person sees it."""

    @staticmethod
    def run(*arguments: str, columns: int = 120) -> str:
        leader, follower = os.openpty()
        environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm-256color"}
        pieces: list[bytes] = []

        def read() -> None:
            try:
                while piece := os.read(leader, 65536):
                    pieces.append(piece)
            except OSError:
                return

        thread = threading.Thread(target=read)
        thread.start()
        with subprocess.Popen(
            [PROGRAM, *arguments], stdin=follower, stdout=follower, stderr=follower, env=environment
        ) as process:
            os.close(follower)
            process.wait(20)
        thread.join(5)
        os.close(leader)
        return b"".join(pieces).decode()


def test_on_a_terminal_there_are_tables_and_colours(cli_: Cli) -> None:
    cli_("enroll", "lamp")
    shown = Terminal.run("devices")
    assert "device" in shown
    assert "never" in shown
    assert "\x1b[" in shown
    assert "public key" in Terminal.run("show", "lamp")
    assert "\x1b[38;5;16;48;5;231m" in Terminal.run("profile", "lamp", "--qr", "terminal")
    narrow = Terminal.run("profile", "lamp", "--qr", "terminal", columns=60)
    assert "wider than this terminal" in narrow


# The real program


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=20)


def test_as_a_program(data: Path) -> None:
    done = program("enroll", "lamp", "--data", str(data), "--json")
    assert json.loads(done.stdout)["name"] == "lamp"
    done = program("revoke", "ghost", "--data", str(data))
    assert (done.returncode, done.stderr) == (3, "lopower: There is no device called 'ghost'.\n")


def test_a_reader_that_has_seen_enough() -> None:
    done = subprocess.run(
        f"{PROGRAM} enroll lamp --qr terminal | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


# Looking on


def test_watching(cli_: Cli, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with gateway(data):
        cli_("enroll", "lamp")
        monkeypatch.setattr(cli.time, "sleep", interrupt)
        result = cli_("watch")
        assert "lamp" in result.out, result.err


def test_doctor(cli_: Cli, data: Path) -> None:
    result = cli_("doctor", "--json", "--listen", "0")
    found = json.loads(result.out)
    assert {"name", "state", "sentence", "advice"} == set(found[0])
    assert not data.exists(), "the doctor only looks"
    data.mkdir()
    (data / FILE).write_bytes(b"trash")
    result = cli_("doctor")
    assert result.code == 1
    assert "✗" in result.out
    (data / FILE).unlink()
    with gateway(data):
        found = json.loads(cli_("doctor", "--json").out)
        assert "The gateway listens" in next(c for c in found if c["name"] == "port")["sentence"]
    assert view.INTERVAL == 1.0
