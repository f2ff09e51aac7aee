"""The `rqstack` command."""
