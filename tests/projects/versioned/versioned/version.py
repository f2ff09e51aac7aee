"""The tests write other versions."""

VERSION = 1
