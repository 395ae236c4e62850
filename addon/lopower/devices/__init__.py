"""Who the devices are: registry, address plan, keys, enrolment and client profiles."""
