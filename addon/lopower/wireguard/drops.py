"""Why a datagram or packet went no further: the keys of the drop counters."""

from __future__ import annotations

from enum import StrEnum


class Drop(StrEnum):
    """Names as they appear in diagnostics."""

    MALFORMED = "malformed"
    MAC1 = "mac1"
    COOKIE_REQUIRED = "cookie_required"
    RATE_LIMITED = "rate_limited"
    UNKNOWN_INDEX = "unknown_index"
    UNKNOWN_PEER = "unknown_peer"
    NOT_AUTHENTIC = "not_authentic"
    FLOOD = "flood"
    OLD_TIMESTAMP = "old_timestamp"
    EXPIRED = "expired"
    REPLAY = "replay"
    INNER_MALFORMED = "inner_malformed"
    SOURCE_NOT_ALLOWED = "source_not_allowed"
    NO_ENDPOINT = "no_endpoint"
    STAGED_OVERFLOW = "staged_overflow"
    GAVE_UP = "gave_up"
