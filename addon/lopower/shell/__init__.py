"""The thin shell: sockets, the poller and the timer around the sans-IO cores."""
