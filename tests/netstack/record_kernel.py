"""Records what Linux says to our packets: `unshare -rn python tests/netstack/record_kernel.py`.

A TUN device in a network namespace of its own is the wire between this script and the kernel. The
capture holds our packets and the kernel's answers in turn; `test_kernel.py` reads it as an oracle.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
from pathlib import Path

from lopower.netstack import icmp, ip, pcap, udp
from lopower.netstack.events import EchoRequest

CAPTURE = Path(__file__).parent / "data" / "kernel.pcap"
KERNEL = {4: bytes([10, 90, 0, 1]), 6: bytes.fromhex("fd90") + bytes(13) + b"\x01"}
DEVICE = {4: bytes([10, 90, 0, 2]), 6: bytes.fromhex("fd90") + bytes(13) + b"\x02"}
OPEN_PORT, CLOSED_PORT, DEVICE_PORT = 7, 9, 5555
PAYLOADS = (b"", b"a", bytes(range(256)), bytes(i * 7 & 255 for i in range(4001)))
MTU = 1280


def open_tun() -> int:
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH", b"tun0", 0x1001))  # IFF_TUN | IFF_NO_PI
    for command in (
        "sysctl -qw net.ipv6.conf.tun0.addr_gen_mode=1",
        "ip addr add 10.90.0.1/24 dev tun0",
        "ip -6 addr add fd90::1/64 dev tun0 nodad",
        f"ip link set tun0 mtu {MTU} up",
        "sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0",
    ):
        subprocess.run(command.split(), check=False)
    return tun


class Recorder:
    def __init__(self) -> None:
        self.tun = open_tun()
        self.records = [pcap.file_header()]
        self.settle()

    def settle(self) -> None:
        """Forget what the kernel says of its own accord when the device comes up."""
        while self.read(0.3):
            pass

    def read(self, timeout: float = 0.1) -> bytes:
        if not select.select([self.tun], [], [], timeout)[0]:
            return b""
        return os.read(self.tun, 65536)

    def keep(self, packet: bytes) -> None:
        self.records.append(pcap.record(packet, float(len(self.records))))

    def send(self, *packets: bytes) -> None:
        for packet in packets:
            self.keep(packet)
            os.write(self.tun, packet)

    def take(self) -> None:
        while packet := self.read():
            self.keep(packet)


def echo(server: socket.socket) -> None:
    data, client = server.recvfrom(65536)
    server.sendto(data, client)


def pieces(packet: bytes, identification: int) -> list[bytes]:
    return [packet] if len(packet) <= MTU else list(ip.split(packet, identification, MTU))


def record_version(recorder: Recorder, version: int) -> None:
    kernel, device = KERNEL[version], DEVICE[version]
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    server = socket.socket(family, socket.SOCK_DGRAM)
    server.bind((socket.inet_ntop(family, kernel), OPEN_PORT))
    server.settimeout(1)
    for number, payload in enumerate(PAYLOADS):
        packet = udp.build((device, DEVICE_PORT), (kernel, OPEN_PORT), payload)
        recorder.send(*pieces(packet, number))
        echo(server)
        recorder.take()
        recorder.send(udp.build((device, DEVICE_PORT), (kernel, CLOSED_PORT), payload[:1000]))
        recorder.take()
        ping = echo_request(version, number, payload)
        recorder.send(*pieces(ping, 100 + number))
        recorder.take()


def echo_request(version: int, sequence: int, payload: bytes) -> bytes:
    kind = icmp.ECHO_REQUEST if version == 4 else icmp.V6_ECHO_REQUEST
    rest = struct.pack("!HH", 77, sequence) + payload
    return icmp.build_message(DEVICE[version], KERNEL[version], kind, 0, rest)


def expected_reply(version: int, sequence: int, payload: bytes) -> bytes:
    """The kernel's answer to `echo_request`, as we would give it."""
    request = EchoRequest(None, DEVICE[version], KERNEL[version], 77, sequence, payload, b"")
    return icmp.echo_reply(request)


def record_refusals(recorder: Recorder) -> None:
    """An unknown protocol, an unknown option, a routing header: what does Linux answer?"""
    addresses = DEVICE[6], KERNEL[6]
    recorder.send(ip.ipv4_header(DEVICE[4], KERNEL[4], 254, 8) + bytes(8))
    recorder.take()
    recorder.send(ip.ipv6_header(*addresses, 254, 8) + bytes(8))
    recorder.take()
    unknown_option = bytes([17, 0, 0xC7, 4]) + bytes(4)
    recorder.send(ip.ipv6_header(*addresses, 60, 16) + unknown_option + bytes(8))
    recorder.take()
    routing = bytes([17, 2, 0, 1]) + bytes(20)
    recorder.send(ip.ipv6_header(*addresses, 43, 32) + routing + bytes(8))
    recorder.take()
    uneven = bytes([17, 0, 0, 1]) + bytes(4) + bytes(9)
    recorder.send(ip.ipv6_header(*addresses, 44, len(uneven)) + uneven)
    recorder.take()
    too_far = bytes([17, 0, 0xFF, 0xF9]) + bytes(4) + bytes(16)
    recorder.send(ip.ipv6_header(*addresses, 44, len(too_far)) + too_far)
    recorder.take()


def record_tcp(recorder: Recorder) -> None:
    """A SYN of Linux, for its header."""
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(("10.90.0.2", 80))
    packet = recorder.read(1.0)
    recorder.keep(packet)


def main() -> None:
    recorder = Recorder()
    record_version(recorder, 4)
    record_version(recorder, 6)
    record_refusals(recorder)
    record_tcp(recorder)
    CAPTURE.parent.mkdir(exist_ok=True)
    CAPTURE.write_bytes(b"".join(recorder.records))
    print(f"{len(recorder.records) - 1} packets in {CAPTURE}")


if __name__ == "__main__":
    main()
