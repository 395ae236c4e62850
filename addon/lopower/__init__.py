"""LoPower: a WireGuard gateway that stitches small devices to a tailnet."""

__version__ = "0.1.0"
