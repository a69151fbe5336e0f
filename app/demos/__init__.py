"""The demos: one Django app for each thing the stack can do. Delete this folder when you start your own."""

APPS = [
    "demos",
    *(f"demos.{demo}" for demo in ("feedback", "widgets", "uploads", "pages", "articles", "notifications")),
]
