"""A laboratory of network namespaces and real WireGuard peers, for tests/e2e and bench."""
