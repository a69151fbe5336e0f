"""Flower's configuration. https://flower.readthedocs.io/en/latest/config.html

FLOWER_… variables of the environment override it.
"""

import os

address = os.environ.get("FLOWER_ADDRESS", "0.0.0.0")  # noqa: S104  the container's own network; nginx publishes
port = 5555
# Whoever may look may not stop workers: that is for the admin and the command line.
read_only = True
# History over a restart, bounded: 5,000 tasks take about 50 MB.
persistent = True
db = os.environ.get("FLOWER_DB", "/var/lib/flower/flower")
state_save_interval = 30_000  # milliseconds
max_tasks = 5_000
max_workers = 100
purge_offline_workers = 120  # seconds
natural_time = True
