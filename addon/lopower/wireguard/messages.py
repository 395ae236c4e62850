"""The four messages on the wire (section 5.4): exact sizes, little-endian fields."""

from __future__ import annotations

from struct import Struct

INITIATION = 1
RESPONSE = 2
COOKIE_REPLY = 3
TRANSPORT = 4

INITIATION_SIZE = 148
RESPONSE_SIZE = 92
COOKIE_REPLY_SIZE = 64
TRANSPORT_OVERHEAD = 32
TRANSPORT_HEADER_SIZE = 16
# mac1 and mac2 end both handshake messages.
MACS_SIZE = 32

# The type is read as a 32-bit word: the three reserved bytes must be zero.
TRANSPORT_HEADER = Struct("<IIQ")
NONCE = Struct("<4xQ")

# type, sender, ephemeral, static, timestamp (the macs are checked apart)
INITIATION_BODY = Struct("<II32s48s28s")
# type, sender, receiver, ephemeral, empty
RESPONSE_BODY = Struct("<III32s16s")
# type, receiver, nonce, cookie
COOKIE_REPLY_BODY = Struct("<II24s32s")

SIZES = {INITIATION: INITIATION_SIZE, RESPONSE: RESPONSE_SIZE, COOKIE_REPLY: COOKIE_REPLY_SIZE}
