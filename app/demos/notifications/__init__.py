"""Mail to many people, a message every morning, and what time limits do to a task."""
