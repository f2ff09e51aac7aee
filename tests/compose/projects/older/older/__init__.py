"""Needs a version of a library that another project does not."""
