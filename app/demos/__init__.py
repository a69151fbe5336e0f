"""The demos: one Django app for each thing the stack can do. Delete this folder when you start your own."""
