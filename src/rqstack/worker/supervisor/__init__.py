"""The supervisor process: starts horses, watches them, and recovers the jobs of dead workers."""
