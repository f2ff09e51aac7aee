"""A small real site, driven by test_django.py."""
