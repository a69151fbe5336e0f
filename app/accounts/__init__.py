"""The project's own user model, there from the first migration so that it can grow."""
