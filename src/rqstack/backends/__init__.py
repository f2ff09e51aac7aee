"""Simple queues of messages behind one small interface: Redis, a database, or the user's own."""
