"""The command line: `lopower` and its commands.

Results go to standard output, everything else to standard error; a mistake of the user's is one
sentence there. Exit codes: 0 done, 1 refused, 2 wrong usage, 3 no such device, 4 the data directory
is in use or the gateway does not answer, 5 the registry cannot be read, 70 a defect of LoPower's.
"""

from __future__ import annotations

import json as jsonlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.live import Live
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from lopower import __version__, view
from lopower.api.access import Access, rule_routes
from lopower.api.client import RunningGateway
from lopower.config import RunConfig, default_data, parse_listen, remembered
from lopower.devices import qr as qrcodes
from lopower.devices.administration import Administration
from lopower.devices.errors import UserError
from lopower.devices.hosts import parse_host_port
from lopower.devices.lock import DataLock
from lopower.devices.registry import Registry, read_settings
from lopower.devices.settings import DEFAULT_PORT, Settings

EXIT_USAGE = 2
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130
FIRST_DEVICE = "phone"

app = typer.Typer(
    name="lopower",
    help="Let small WireGuard devices take part in a tailnet.",
    epilog="Without a command: start a gateway, enrol a first device, show its QR code. "
    "Exit codes: 0 done, 1 refused, 2 wrong usage, 3 no such device, 4 data directory in use, "
    "5 registry unreadable.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class BackendName(StrEnum):
    """Where flows go out."""

    SYSTEM = "system"
    TAILSCALE = "tailscale"


class ProfileName(StrEnum):
    """For which client the file is."""

    WG_QUICK = "wg-quick"
    ESPHOME = "esphome"
    TASMOTA = "tasmota"
    ARDUINO = "arduino"


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


Data = Annotated[
    Path,
    typer.Option(
        "--data",
        envvar="LOPOWER_DATA",
        help="Where keys and devices are kept.",
        show_default="$XDG_STATE_HOME/lopower or ~/.local/state/lopower",
        default_factory=default_data,
        file_okay=True,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="The device's name or id.", show_default=False)]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        envvar="LOPOWER_ENDPOINT",
        metavar="HOST[:PORT]",
        help="How devices reach the gateway.",
        show_default="guessed from the default route",
    ),
]
PublicKey = Annotated[
    str | None,
    typer.Option("--public-key", metavar="KEY", help="The device keeps its own private key."),
]
Qr = Annotated[
    str | None,
    typer.Option(
        "--qr", metavar="terminal|FILE.png|FILE.svg", help="Show the file as a QR code as well."
    ),
]
Psk = Annotated[bool, typer.Option("--psk/--no-psk", help="With a preshared key.")]


# Starting a gateway


@app.command()
def run(
    data: Data,
    listen: Annotated[
        str | None,
        typer.Option(
            envvar="LOPOWER_LISTEN",
            metavar="[ADDR:]PORT",
            help="UDP port for WireGuard, on one address or on all.",
            show_default=f"as last time, or {DEFAULT_PORT}",
        ),
    ] = None,
    endpoint: Endpoint = None,
    backend: Annotated[
        BackendName, typer.Option(envvar="LOPOWER_BACKEND", help="Where flows go out.")
    ] = BackendName.SYSTEM,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            envvar="LOPOWER_ALLOW", metavar="RULE", help="What every device may reach; repeatable."
        ),
    ] = None,
    ipv4: Annotated[
        bool | None,
        typer.Option(
            "--ipv4/--no-ipv4",
            envvar="LOPOWER_IPV4",
            help="IPv4 inside the tunnel.",
            show_default="as last time, or on",
        ),
    ] = None,
    show_view: Annotated[
        bool,
        typer.Option("--view/--no-view", envvar="LOPOWER_VIEW", help="Live view on a terminal."),
    ] = True,
    pcap: Annotated[
        Path | None,
        typer.Option(envvar="LOPOWER_PCAP", metavar="FILE", help="Capture packets in the tunnel."),
    ] = None,
    upstream: Annotated[
        list[str] | None,
        typer.Option(
            envvar="LOPOWER_UPSTREAM", metavar="DNS", help="DNS servers to ask; repeatable."
        ),
    ] = None,
    log_level: Annotated[
        LogLevel, typer.Option(envvar="LOPOWER_LOG_LEVEL", help="How much to log.")
    ] = LogLevel.INFO,
    first_device: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Run the gateway until it is stopped."""
    with DataLock(data, "gateway").acquire(), Registry(data, ipv4=ipv4) as registry:
        config = _run_config(
            registry.settings(),
            data=data,
            listen=listen,
            endpoint=endpoint,
            backend=backend.value,
            allow=allow or [],
            view=show_view and sys.stdout.isatty(),
            pcap=pcap,
            upstreams=upstream or [],
            log_level=log_level.value,
        )
        rule_routes(registry.settings())(tuple(config.allow))
        registry.save_settings(**remembered(registry.stored_settings(), config))
        _announce(config)
        if first_device and not registry.devices():
            _first_device(registry, config)
    if not config.view:
        _become_gateway(config)
    _log_above_view(config)
    from lopower.service import run as run_gateway

    raise typer.Exit(run_gateway(config))


def _run_config(
    settings: Settings, *, data: Path, listen: str | None, endpoint: str | None, **rest: Any
) -> RunConfig:
    """Options first, then what is remembered, then the defaults."""
    address, port = parse_listen(listen) if listen is not None else ("", settings.listen_port)
    if endpoint is not None:
        parse_host_port(endpoint, port or DEFAULT_PORT)
    return RunConfig(
        data=data,
        listen=(address, port),
        endpoint=endpoint or settings.endpoint,
        ipv4=settings.ipv4,
        **rest,
    )


def _announce(config: RunConfig) -> None:
    """Say where devices will look for the gateway."""
    port = config.listen[1]
    where = config.client_endpoint(port) if port else None
    if where is not None and config.endpoint is None:
        _note(f"Devices are told to connect to {where}, a guess: --endpoint says otherwise.")
    elif where is not None:
        _note(f"Devices are told to connect to {where}.")


def _first_device(registry: Registry, config: RunConfig) -> None:
    """So that there is something to scan."""
    administration = Administration(
        registry,
        routes=rule_routes(registry.settings()),
        endpoint=config.client_endpoint(config.listen[1] or DEFAULT_PORT),
    )
    _show_enrolment(administration.call("enroll", {"name": FIRST_DEVICE}), "terminal", json=False)


def _become_gateway(config: RunConfig) -> NoReturn:
    """The same process goes on without what only a command line needs: a quarter of the memory."""
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, "-m", "lopower.service", config.to_json()]
    os.execv(sys.executable, command)  # noqa: S606 ourselves, no shell


def _log_above_view(config: RunConfig) -> None:
    handler: logging.Handler = RichHandler(show_path=False)
    logging.basicConfig(level=config.log_level.upper(), format="%(message)s", handlers=[handler])


@app.command()
def demo(json: Json = False) -> None:
    """Try everything out in a closed room: a gateway, a device, and what they say to each other."""
    from lopower.demo import run as run_demo

    raise typer.Exit(run_demo(json=json))


# Devices


@app.command()
def enroll(
    name: Annotated[str, typer.Argument(help="A name for the device.", show_default=False)],
    data: Data,
    profile: Annotated[
        ProfileName, typer.Option(help="For which client the file is.")
    ] = ProfileName.WG_QUICK,
    public_key: PublicKey = None,
    psk: Psk = True,
    rule: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="RULE", help="What this device may reach; repeatable."),
    ] = None,
    endpoint: Endpoint = None,
    qr: Qr = None,
    json: Json = False,
) -> None:
    """Enrol a device and print the file for its client."""
    arguments = {
        "name": name,
        "profile": profile.value,
        "public_key": public_key,
        "psk": psk,
        "rules": rule or [],
        "endpoint": endpoint,
    }
    _check_qr(qr, profile.value, public_key)
    with _administration(data) as administration:
        _show_enrolment(administration.call("enroll", arguments), qr, json=json)


@app.command()
def rotate(
    name: Name,
    data: Data,
    public_key: PublicKey = None,
    psk: Psk = True,
    now: Annotated[
        bool, typer.Option("--now", help="Shut the old keys out at once: the device was lost.")
    ] = False,
    endpoint: Endpoint = None,
    qr: Qr = None,
    json: Json = False,
) -> None:
    """Give a device new keys; the old ones work until the new ones are first used."""
    arguments = {
        "name": name,
        "public_key": public_key,
        "psk": psk,
        "now": now,
        "endpoint": endpoint,
    }
    with _administration(data) as administration:
        if qr is not None:
            _check_qr(qr, administration.call("show", {"name": name})["profile"], public_key)
        _show_enrolment(administration.call("rotate", arguments), qr, json=json)


@app.command()
def profile(
    name: Name, data: Data, endpoint: Endpoint = None, qr: Qr = None, json: Json = False
) -> None:
    """Print the file again, until the device has connected or a day has passed."""
    with _administration(data) as administration:
        enrolment = administration.call("profile", {"name": name, "endpoint": endpoint})
    if qr is not None:
        _check_qr(qr, enrolment["kind"], None)
    _show_enrolment(enrolment, qr, json=json)


@app.command()
def devices(data: Data, json: Json = False) -> None:
    """List the devices."""
    with _administration(data) as administration:
        found = administration.call("devices", {})
    if json:
        _print_json(found)
    elif sys.stdout.isatty():
        Console().print(view.device_table(found, {}, time.time()))
    else:
        for device in found:
            print(_line(device))


@app.command()
def show(name: Name, data: Data, json: Json = False) -> None:
    """Show one device."""
    _describe(data, "show", {"name": name}, json=json)


@app.command()
def rename(
    name: Name,
    new_name: Annotated[str, typer.Argument(help="The new name.", show_default=False)],
    data: Data,
    json: Json = False,
) -> None:
    """Give a device another name."""
    _change(data, "rename", {"name": name, "new_name": new_name}, "is now called {name}", json)


@app.command()
def enable(name: Name, data: Data, json: Json = False) -> None:
    """Let a disabled device in again."""
    _change(data, "enable", {"name": name}, "is enabled", json)


@app.command()
def disable(name: Name, data: Data, json: Json = False) -> None:
    """Keep a device out without forgetting it."""
    _change(data, "disable", {"name": name}, "is disabled", json)


@app.command()
def revoke(name: Name, data: Data, json: Json = False) -> None:
    """Shut a device out for good and forget its keys."""
    _change(data, "revoke", {"name": name}, "is revoked", json)


@app.command()
def rules(
    name: Name,
    data: Data,
    rule: Annotated[
        list[str] | None, typer.Argument(help="What it may reach.", show_default=False)
    ] = None,
    default: Annotated[bool, typer.Option("--default", help="Back to the default.")] = False,
    json: Json = False,
) -> None:
    """Show or replace the list of what a device may reach."""
    if rule or default:
        arguments = {"name": name, "rules": [] if default else rule}
        _change(data, "rules", arguments, "has new rules", json)
        return
    with _administration(data) as administration:
        found = administration.call("show", {"name": name})["rules"]
    if json:
        _print_json(found)
    else:
        print("\n".join(found or ["@default"]))


@app.command()
def forget_timestamp(name: Name, data: Data, json: Json = False) -> None:
    """Accept a device whose clock has gone back."""
    _change(data, "forget_timestamp", {"name": name}, "may come with any time", json)


# The gateway


@app.command()
def status(data: Data, json: Json = False) -> None:
    """The gateway at a glance."""
    _describe(data, "status", {}, json=json)


@app.command()
def settings(
    data: Data,
    listen_port: Annotated[int | None, typer.Option(metavar="PORT")] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="HOST[:PORT]", help="An empty one: guess.")
    ] = None,
    ipv4: Annotated[bool | None, typer.Option("--ipv4/--no-ipv4")] = None,
    ipv4_range: Annotated[str | None, typer.Option(metavar="PREFIX")] = None,
    ipv6_range: Annotated[str | None, typer.Option(metavar="PREFIX")] = None,
    json: Json = False,
) -> None:
    """Show or change what the gateway remembers."""
    given: dict[str, Any] = {
        "listen_port": listen_port,
        "endpoint": endpoint,
        "ipv4": ipv4,
        "ipv4_range": ipv4_range,
        "ipv6_range": ipv6_range,
    }
    changes = {name: None if value == "" else value for name, value in given.items()}
    changes = {name: value for name, value in changes.items() if given[name] is not None}
    _describe(data, "settings", {"changes": changes}, json=json)


@app.command()
def watch(data: Data) -> None:
    """The live view of a running gateway."""
    screens = view.View()
    try:
        with Live(console=Console(), auto_refresh=False) as live:
            while True:
                live.update(view.snapshot(screens, RunningGateway(data)), refresh=True)
                time.sleep(view.INTERVAL)
    except KeyboardInterrupt:
        return


@app.command()
def doctor(
    data: Data,
    listen: Annotated[
        str | None,
        typer.Option(envvar="LOPOWER_LISTEN", metavar="[ADDR:]PORT", show_default="as last time"),
    ] = None,
    endpoint: Endpoint = None,
    json: Json = False,
) -> None:
    """Look for what usually goes wrong; exit code 1 when something must be mended."""
    from lopower import doctor as surgery

    found = surgery.examine(_situation(data, listen, endpoint))
    if json:
        _print_json([check.as_dict() for check in found])
    else:
        for check in found:
            _print_check(check.state, check.sentence, check.advice)
    raise typer.Exit(1 if any(check.state == "fail" for check in found) else 0)


def _situation(data: Path, listen: str | None, endpoint: str | None) -> Any:
    """What a running gateway says, or what it would be started with."""
    from lopower.doctor import Situation

    gateway = RunningGateway(data)
    if gateway.found():
        status, devices, knocks = (gateway.call(n, {}) for n in ("status", "devices", "knocks"))
        where = endpoint or (None if status["endpoint_guessed"] else status["endpoint"])
        return Situation(data, status["listen_port"], where, status, devices, knocks)
    settings = read_settings(data)
    number = parse_listen(listen)[1] if listen else settings.listen_port
    return Situation(data, number, endpoint or settings.endpoint, {})


# Helpers


def _administration(data: Path) -> Access:
    """The running gateway's administration, or our own."""
    setting = os.environ.get("LOPOWER_IPV4", "").lower()
    ipv4 = None if not setting else setting not in ("0", "false", "no", "off", "f", "n")
    return Access(data, ipv4=ipv4)


def _describe(data: Path, operation: str, arguments: dict[str, Any], *, json: bool) -> None:
    with _administration(data) as administration:
        found = administration.call(operation, arguments)
    if json:
        _print_json(found)
    else:
        _print_values(found)


def _change(data: Path, operation: str, arguments: dict[str, Any], what: str, json: bool) -> None:
    with _administration(data) as administration:
        device = administration.call(operation, arguments)
    if json:
        _print_json(device)
    else:
        _note(f"{arguments['name']} {what.format(name=device['name'])}.")


def _check_qr(target: str | None, kind: str, public_key: str | None) -> None:
    """Refuse a QR code that could not work before anything is changed."""
    if target is None:
        return
    qrcodes.check(kind)
    if public_key is not None:
        raise UserError("A QR code needs the private key, which only the device has.")
    if target != "terminal" and Path(target).suffix.lower() not in qrcodes.SUFFIXES:
        raise UserError(f"A QR code goes to 'terminal' or to a .png or .svg file, not '{target}'.")


def _show_enrolment(enrolment: dict[str, Any], qr: str | None, *, json: bool) -> None:
    """The file to standard output, for people with the QR code and a word about it."""
    text = enrolment["profile"]
    if json:
        _print_json(enrolment)
    else:
        print(text, end="")
        _note(f"{enrolment['name']} has the addresses {' and '.join(enrolment['addresses'])}.")
        if enrolment["endpoint_guessed"]:
            _note(f"It connects to {enrolment['endpoint']}, a guess: --endpoint says otherwise.")
        if enrolment["expires"] is not None:
            when = time.strftime("%d %B %H:%M", time.localtime(enrolment["expires"]))
            _note(f"'lopower profile {enrolment['name']}' shows this again until {when}.")
    if qr is not None:
        _show_qr(text, qr, enrolment["kind"], sys.stderr if json else sys.stdout)


def _show_qr(text: str, target: str, kind: str, stream: Any) -> None:
    qrcodes.check(kind, text)
    if target != "terminal":
        qrcodes.write(text, Path(target))
        _note(f"The QR code is in {target}; it holds the private key.")
        return
    terminal = stream.isatty()
    if terminal and Console(file=stream).width < qrcodes.width(text):
        _note("The QR code is wider than this terminal: enlarge it, or use --qr FILE.png.")
    colour = terminal and "NO_COLOR" not in os.environ
    print(qrcodes.terminal(text, colour=colour), file=stream)


def _line(device: dict[str, Any]) -> str:
    """A device as one line of fields separated by tabs, for other programs."""
    state = "online" if device["online"] else "offline" if device["enabled"] else "disabled"
    fields = (device["name"], state, *device["addresses"], device["endpoint"] or "-")
    return "\t".join(fields)


def _print_json(value: Any) -> None:
    print(jsonlib.dumps(value, indent=2, ensure_ascii=False))


def _print_values(values: dict[str, Any]) -> None:
    rows = [(name.replace("_", " "), _plain(value)) for name, value in values.items()]
    if not sys.stdout.isatty():
        for name, value in rows:
            print(f"{name}\t{value}")
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in rows:
        table.add_row(Text(name, "bold"), Text(value))
    Console().print(table)


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items()) or "-"
    return str(value)


def _print_check(state: str, sentence: str, advice: str) -> None:
    signs = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}
    sign, colour = signs[state]
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(sign, colour), Text(sentence))
    if advice and state != "ok":
        console.print(Text(f"  {advice}"))


def _note(sentence: str) -> None:
    print(sentence, file=sys.stderr)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True)
    ] = False,
) -> None:
    if version:
        print(f"lopower {__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code. No traceback reaches a user."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help", "--version")):
        given = ["run", "--first-device", *given]
    try:
        return _finish(lambda: app(given, prog_name="lopower", standalone_mode=False))
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _finish(command: Callable[[], Any]) -> int:
    try:
        code = command()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except UserError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _fail(f"{name}{error.strerror or error}.", 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own: wrong usage
            return _fail(_sentence(error.format_message().replace("Value error, ", "")), EXIT_USAGE)
        if os.environ.get("LOPOWER_DEBUG"):
            traceback.print_exc()
        return _fail(
            f"This is a defect of LoPower's ({type(error).__name__}); "
            "LOPOWER_DEBUG=1 shows the details for a report.",
            EXIT_DEFECT,
        )


def _sentence(text: str) -> str:
    """A message on one line, with a full stop."""
    line = " ".join(text.split())
    return line if line.endswith((".", "?", "!")) else f"{line}."


def _fail(sentence: str, code: int) -> int:
    print(f"lopower: {sentence}", file=sys.stderr)
    return code
