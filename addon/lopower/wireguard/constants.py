"""The numbers of the WireGuard paper, section 6.1, and of the implementations around it."""

from __future__ import annotations

REKEY_AFTER_MESSAGES = 2**60
REJECT_AFTER_MESSAGES = 2**64 - 2**13 - 1
REKEY_AFTER_TIME = 120.0
REJECT_AFTER_TIME = 180.0
REKEY_ATTEMPT_TIME = 90.0
REKEY_TIMEOUT = 5.0
KEEPALIVE_TIMEOUT = 10.0

# Added to REKEY_TIMEOUT so that two peers, or all devices after a restart, do not march in step.
REKEY_JITTER = 0.333
# Data sent without an answer for this long (plus jitter) starts a new handshake.
NEW_HANDSHAKE_TIMEOUT = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT
# An initiator that only receives renews in time for its last keepalive to get through.
RECEIVE_REKEY_AFTER_TIME = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
KEY_ZEROING_TIME = 3 * REJECT_AFTER_TIME

COOKIE_SECRET_LIFETIME = 120.0
# A cookie is given up a little before its maker does.
COOKIE_LIFETIME = COOKIE_SECRET_LIFETIME - 5.0

# At most one initiation of a peer is answered in this time; timestamps are whitened to 2^24 ns.
INITIATION_INTERVAL = 0.02
REPLAY_WINDOW = 8192
MAX_STAGED_PACKETS = 128

HANDSHAKES_PER_SECOND = 20
HANDSHAKES_BURST = 5
# A thousand devices that all come back at once are no attack; it drains as a small board computes.
LOAD_THRESHOLD = 1024
LOAD_DRAIN_PER_SECOND = 1000.0
LOAD_STICKY_TIME = 1.0
