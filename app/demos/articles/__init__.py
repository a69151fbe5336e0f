"""Two races that every Celery project meets, and what ends them: ids as arguments, and queueing on commit."""
