"""Integrations with frameworks; nothing in the rest of the package imports from here."""
