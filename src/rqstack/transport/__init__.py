"""Everything that talks to Redis: clients, connections, scripts, key names, times."""
