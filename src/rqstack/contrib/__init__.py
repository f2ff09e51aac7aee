"""Integrations with frameworks. No other package imports from here."""
