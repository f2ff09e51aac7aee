"""Task declarations, their options and their discovery."""
