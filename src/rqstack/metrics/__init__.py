"""Metrics: rq-exporter with extensions."""
