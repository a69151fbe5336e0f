"""The stack on one machine without Docker: `make demo`."""
