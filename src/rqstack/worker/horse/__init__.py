"""The horse process: claims, runs and finishes jobs."""
