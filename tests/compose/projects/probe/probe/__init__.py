"""Tells what ran it."""
