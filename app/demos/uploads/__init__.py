"""A large file: taken in as a stream, answered at once, processed by a worker that shows how far it is."""
