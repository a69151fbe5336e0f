"""Benchmarks: ratios of things run side by side on this machine. Never a timed test."""
