"""Flows: what a device opens is allowed or refused, dialled, and stitched to the other side."""
