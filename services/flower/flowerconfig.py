"""Flower's configuration. https://flower.readthedocs.io/en/latest/config.html

What this file sets wins over Flower's own FLOWER_… variables; the rest of those work as documented.
"""

import os

from tornado.ioloop import PeriodicCallback

from celeriac.health.heartbeat import INTERVAL, Heartbeat

# Beats from Flower's own loop; a loop that stays stuck ends the process.
PeriodicCallback(Heartbeat().beat, INTERVAL * 1000).start()

address = os.environ.get("FLOWER_ADDRESS", "0.0.0.0")  # noqa: S104  the container's own network; nginx publishes
port = int(os.environ.get("FLOWER_PORT", "5555"))
# Whoever may look may not stop workers, until somebody decides so.
read_only = os.environ.get("FLOWER_READ_ONLY", "true").lower() != "false"
# History over a restart, bounded.
persistent = True
db = os.environ.get("FLOWER_DB", "/var/lib/flower/flower")
state_save_interval = 30_000  # milliseconds
max_tasks = int(os.environ.get("FLOWER_MAX_TASKS", "5000"))
max_workers = 100
purge_offline_workers = 120  # seconds
natural_time = True
