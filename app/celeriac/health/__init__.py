"""Liveness: what a probe reads, and how a process that stays stuck ends itself."""
