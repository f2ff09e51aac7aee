"""Tasks of every kind, which touch nothing in Redis themselves."""
