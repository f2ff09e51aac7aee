"""What processes share: hooks around forks and jobs, ending with the parent, logging."""
