"""Periodic tasks: the scheduler, and the rows it is seeded with."""
