"""A task of each kind, with each option."""
