"""A form, a row, a task: the shortest path through the whole stack."""
