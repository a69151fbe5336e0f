"""Web pages: fetched, parsed and stored by a chain of tasks; many of them at once by a chord."""
