"""Helpers that tests share, as plain typed modules."""
