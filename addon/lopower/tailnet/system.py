"""The `system` backend: flows go to the network that the gateway's own host is in."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections import deque
from collections.abc import Callable
from time import monotonic

from lopower.shell.poller import FAILED, Poller
from lopower.tailnet.backend import Dial, DialError, Dialled, UdpPort, UdpReceiver
from lopower.tailnet.ping import Pinger

# Above the 21 s in which four SYNs (1, 3, 7, 15 s) go unanswered, below where devices give up.
DIAL_TIMEOUT = 30.0
# A reader of one socket lets the others have their turn after this many datagrams.
UDP_BURST = 64
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_ERRORS = {
    errno.ECONNREFUSED: DialError.REFUSED,
    errno.EHOSTUNREACH: DialError.UNREACHABLE,
    errno.ENETUNREACH: DialError.UNREACHABLE,
    errno.EHOSTDOWN: DialError.UNREACHABLE,
    errno.ENETDOWN: DialError.UNREACHABLE,
    errno.EADDRNOTAVAIL: DialError.UNREACHABLE,
    errno.EACCES: DialError.PROHIBITED,
    errno.EPERM: DialError.PROHIBITED,
    errno.ETIMEDOUT: DialError.TIMED_OUT,
}


def dial_error(number: int) -> DialError:
    """What an errno of connect or send means to a device."""
    return _ERRORS.get(number, DialError.UNREACHABLE)


class SystemBackend:
    """Plain sockets of the host, all watched by one poller."""

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller) -> None:
        self._loop = loop
        self.poller = poller
        self._dials: deque[tuple[float, _SystemDial]] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._pinger = Pinger(poller)
        self._buffer = memoryview(bytearray(65536))

    def dial_tcp(self, destination: bytes, port: int, dialled: Dialled) -> Dial | None:
        family = socket.AF_INET if len(destination) == 4 else socket.AF_INET6
        try:
            tcp = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError:
            dialled(DialError.EXHAUSTED)
            return None
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        code = tcp.connect_ex((socket.inet_ntop(family, destination), port))
        if code not in (0, errno.EINPROGRESS):
            tcp.close()
            dialled(dial_error(code))
            return None
        dial = _SystemDial(self, tcp, dialled)
        self.poller.watch(tcp.fileno(), dial)
        self._dials.append((monotonic() + DIAL_TIMEOUT, dial))
        if self._sweep is None:
            self._sweep = self._loop.call_later(DIAL_TIMEOUT, self._time_out)
        return dial

    def open_udp(self, receiver: UdpReceiver) -> UdpPort:
        return _SystemUdp(self.poller, receiver, self._buffer)

    def ping(self, destination: bytes, payload: bytes, answered: Callable[[], None]) -> None:
        self._pinger.ping(destination, payload, answered, monotonic())

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for _, dial in self._dials:
            dial.cancel()
        self._pinger.close()

    def _time_out(self) -> None:
        now = monotonic()
        dials = self._dials
        while dials and (dials[0][0] <= now or dials[0][1].done):
            dials.popleft()[1].fail(DialError.TIMED_OUT)
        self._sweep = (
            self._loop.call_later(max(0.1, dials[0][0] - now), self._time_out) if dials else None
        )


class _SystemDial:
    """A connect in progress."""

    __slots__ = ("_backend", "_dialled", "_socket", "done")

    def __init__(self, backend: SystemBackend, tcp: socket.socket, dialled: Dialled) -> None:
        self._backend = backend
        self._socket: socket.socket | None = tcp
        self._dialled: Dialled | None = dialled
        self.done = False

    def on_socket(self, mask: int) -> None:
        if self._socket is None:
            return
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.fail(dial_error(code))
        else:
            tcp, dialled = self._socket, self._dialled
            self._finish()
            assert dialled is not None
            dialled(tcp)

    def fail(self, error: DialError) -> None:
        dialled = self._dialled
        self.cancel()
        if dialled is not None:
            dialled(error)

    def cancel(self) -> None:
        tcp = self._socket
        self._finish()
        if tcp is not None:
            self._backend.poller.forget(tcp.fileno())
            tcp.close()

    def _finish(self) -> None:
        self.done = True
        self._socket = self._dialled = None


class _SystemUdp:
    """One UDP socket for each IP version in use; ICMP errors name their destination."""

    __slots__ = ("_buffer", "_expected", "_poller", "_receiver", "_sockets")

    def __init__(self, poller: Poller, receiver: UdpReceiver, buffer: memoryview) -> None:
        self._poller = poller
        self._receiver = receiver
        self._buffer = buffer
        self._expected = 1
        self._sockets: dict[int, socket.socket] = {}

    def send(self, destination: bytes, port: int, payload: bytes | memoryview) -> None:
        family = socket.AF_INET if len(destination) == 4 else socket.AF_INET6
        udp = self._sockets.get(family)
        error = DialError.EXHAUSTED
        try:
            udp = udp or self._open(family)
            name = (socket.inet_ntop(family, destination), port)
            try:
                udp.sendto(payload, name)
            except BlockingIOError:
                pass  # a full queue loses datagrams, as on any link
            except OSError:
                # An ICMP error of an earlier datagram is reported on the next send.
                self._read_errors(udp, family)
                udp.sendto(payload, name)
        except BlockingIOError:
            pass
        except OSError as failure:
            error = _ERRORS.get(failure.errno or 0, error)
            self._receiver.on_udp_error(destination, port, bytes(payload), error)

    def _open(self, family: int) -> socket.socket:
        udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        if family == socket.AF_INET:
            udp.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        else:
            udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        self._sockets[family] = udp
        self._poller.watch_readable(udp.fileno(), self)
        return udp

    def on_socket(self, mask: int) -> None:
        for family, udp in list(self._sockets.items()):
            if mask & FAILED:
                self._read_errors(udp, family)
            self._read(udp, family)

    def _read(self, udp: socket.socket, family: int) -> None:
        """As many as came together lately: a lone datagram costs no second look."""
        buffer, receiver = self._buffer, self._receiver
        try:
            for _ in range(self._expected):
                size, name = udp.recvfrom_into(buffer)
                source = socket.inet_pton(family, name[0].partition("%")[0])
                receiver.on_datagram(source, name[1], bytes(buffer[:size]))
                if udp.fileno() < 0:
                    return
            self._expected = min(2 * self._expected, UDP_BURST)
        except BlockingIOError:
            self._expected = 1
        except OSError:
            self._read_errors(udp, family)

    def _read_errors(self, udp: socket.socket, family: int) -> None:
        while udp.fileno() >= 0:
            try:
                payload, ancillary, _, name = udp.recvmsg(65536, 512, socket.MSG_ERRQUEUE)
            except OSError:
                return
            for _, kind, data in ancillary:
                if kind in (_IP_RECVERR, _IPV6_RECVERR) and name:
                    error = dial_error(struct.unpack_from("=I", data)[0])
                    host = socket.inet_pton(family, name[0].partition("%")[0])
                    self._receiver.on_udp_error(host, name[1], payload, error)

    def close(self) -> None:
        for udp in self._sockets.values():
            self._poller.forget(udp.fileno())
            udp.close()
        self._sockets.clear()
