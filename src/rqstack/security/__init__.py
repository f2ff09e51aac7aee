"""What may run and what may be read: signed payloads and the task allow-list."""
