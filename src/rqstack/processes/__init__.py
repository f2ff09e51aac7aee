"""Process helpers: hooks, signals, ending with the parent, logging."""
