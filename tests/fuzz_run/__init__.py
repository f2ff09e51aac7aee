"""The fuzz run: hostile records in every key and channel, while all processes run and are started again and again."""
