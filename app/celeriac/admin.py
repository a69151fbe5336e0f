"""Periodic tasks in the admin: whoever may only look can neither switch nor run one."""

from django_celery_beat.admin import PeriodicTaskAdmin

# Stock offers these to everyone who may see the list.
for name in ("enable_tasks", "disable_tasks", "toggle_tasks", "run_tasks"):
    getattr(PeriodicTaskAdmin, name).allowed_permissions = ("change",)
