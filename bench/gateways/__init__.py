"""Start commands of the gateways that are measured: the contract is in bench/README.md."""
