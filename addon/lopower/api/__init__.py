"""HTTP: the control socket of the command line, and the page inside the tunnel."""
