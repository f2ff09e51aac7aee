"""Letters that are delivered in the background."""
