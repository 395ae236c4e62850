"""What lies behind the gateway: the tailnet, or the host's own network."""
