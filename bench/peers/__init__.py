"""One file for each task queue that is compared: its app, its task, and how a task is sent (see bench/drive.py).

Every task notes its number, after ``seconds`` of sleep if it is a long one, and returns it as its result.
"""
