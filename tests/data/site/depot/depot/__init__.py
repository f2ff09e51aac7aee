"""The task project of the recorded states: a depot that packs and ships orders."""
