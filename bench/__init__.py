"""Benchmarks: the gateway beside others, between real WireGuard peers."""
