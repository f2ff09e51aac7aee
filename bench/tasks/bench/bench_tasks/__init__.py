"""The benchmark's jobs as rqstack tasks."""
