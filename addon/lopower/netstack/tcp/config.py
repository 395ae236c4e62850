"""What can be set, and every bound with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KB = 1024
MB = 1024 * KB


@dataclass(frozen=True, slots=True)
class TcpConfig:
    """Settings of one `TcpTable`; times in seconds, sizes in bytes."""

    mtu: int = 1280
    """Of inner packets: what passes every tunnel, and what IPv6 guarantees."""
    congestion: Literal["cubic", "newreno"] = "cubic"
    nagle: bool = False
    """A proxy relays what the other side chose to send; delaying it again only adds latency."""
    ack_delay: float = 0.001
    """What is less than a full segment, and nothing missing, is acknowledged with our next data or
    so much later: an exchange of small messages takes a packet less. A window of four segments
    never waits (RFC 9293, 3.8.6.3 allows 0.5 s and every second segment)."""

    burst_segments: int = 48
    """At most so many segments per connection and flush: a WireGuard client with Linux' default
    UDP buffer of 212,992 bytes loses what is past about 90 datagrams of a burst, and one sendmsg
    with UDP_SEGMENT takes 64 KB."""
    max_bursts: int = 8
    """At most so many bursts per flush, where a window four times as large has been carried without
    a loss: what a flush costs is shared."""
    initial_window: int = 10
    """Segments, RFC 6928."""
    limited_slow_start: int = 128 * KB
    """RFC 3742: past this the window grows by at most half of it per round trip, so that slow
    start overshoots a short queue by tens of packets, not by hundreds."""

    initial_rto: float = 1.0
    min_rto: float = 0.2
    """RFC 6298 says 1 s; Linux and every other stack in use wait 200 ms."""
    max_rto: float = 60.0
    user_timeout: float = 300.0
    """R2 of RFC 9293, 3.8.3 (at least 100 s): without progress for so long, the peer is gone."""
    syn_retries: int = 5
    """1 + 2 + 4 + 8 + 16 + 32: an active open gives up after 63 s."""
    syn_ack_retries: int = 4
    """31 s: a device that is still there has asked again long before."""
    request_timeout: float = 75.0
    """How long a SYN waits for the proxy; no client waits longer than that for an answer."""

    keepalive_idle: float = 7200.0
    """RFC 9293, 3.8.4; 0 switches keepalive off."""
    keepalive_interval: float = 75.0
    keepalive_probes: int = 9
    time_wait: float = 60.0
    fin_wait_2: float = 60.0
    """For a connection nobody owns any more; Linux' figure for both."""

    receive_buffer: int = 64 * KB
    max_receive_buffer: int = 4 * MB
    """2 Gbit/s over 16 ms, or 300 Mbit/s over 100 ms."""
    """It decides the window scale (RFC 7323): 7."""
    send_buffer: int = 64 * KB
    min_send_buffer: int = 16 * KB
    """For peers with windows of a few segments (lwIP: 5.7 KB): more would only be queueing."""
    max_send_buffer: int = 4 * MB
    buffer_pool: int = 8 * MB
    """Empty send buffers kept for the next flow: fresh memory costs a page fault per 4 KB."""

    max_connections: int = 32768
    """Of all links: at 2 KB each 64 MB, more than a proxy has sockets for."""
    max_requests: int = 512
    """SYNs without an established connection; 512 of them are well below 1 MB."""
    max_requests_per_link: int = 128
    """One device must not fill the backlog for the others."""
    max_time_wait: int = 8192
    """Records of about 250 bytes; past this the oldest goes (RFC 9293 lets us)."""
    max_out_of_order: int = 1024
    """Ranges waiting for a hole to fill: a 4 MB window with every third segment missing."""
    max_runs: int = 4096
    """Ranges on the retransmission scoreboard: a 4 MB window with every other segment lost."""

    resets_per_second: float = 1000.0
    """For segments of no connection; as many as ICMP errors."""
    reset_burst: float = 50.0
    challenges_per_second: float = 1000.0
    """RFC 5961, 7: challenge ACKs of all connections together."""
    challenge_interval: float = 0.5
    """And of one connection, as in Linux (tcp_invalid_ratelimit)."""

    @property
    def window_shift(self) -> int:
        """The window scale with which 16 bits say `max_receive_buffer`."""
        return (self.max_receive_buffer >> 16).bit_length()
