"""Starts and stops the whole stack on one machine: with compose, or with honcho if there is no Docker."""
