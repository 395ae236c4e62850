"""Device names: labels that can stand before `.lopower.internal`."""

from __future__ import annotations

import re
import unicodedata

from .errors import UserError

MAX_LENGTH = 63  # a DNS label, RFC 1035
RESERVED = frozenset({"gateway", "localhost", "lopower"})

_SEPARATORS = re.compile(r"[\s_]+")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")


def normalise(text: str) -> str:
    """The label a text stands for: lower case, accents dropped, blanks as hyphens."""
    plain = unicodedata.normalize("NFKD", text.strip())
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return _SEPARATORS.sub("-", plain).lower()


def parse(text: str) -> str:
    """The name for a device, or the reason it cannot have it."""
    name = normalise(text)
    if not name:
        raise UserError("A device needs a name.")
    if len(name) > MAX_LENGTH:
        raise UserError(f"A device name has at most {MAX_LENGTH} characters.")
    if not _LABEL.fullmatch(name):
        raise UserError(
            f"{show(text)} cannot be a device name: use letters, digits and hyphens, "
            "with a letter or digit at both ends."
        )
    if name in RESERVED:
        raise UserError(f"The name '{name}' is reserved for the gateway itself.")
    return name


def show(text: str) -> str:
    """A user's text in quotes, on one line and not too long, fit for a sentence."""
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return f"'{clean[:MAX_LENGTH]}…'" if len(clean) > MAX_LENGTH else f"'{clean}'"
