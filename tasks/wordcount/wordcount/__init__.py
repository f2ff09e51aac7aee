"""Counts the words of a web page."""
