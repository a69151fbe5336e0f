"""Mounted into web, workers and beat as the package ``chaos``."""
