"""The HTTP interface: the jobs page."""
