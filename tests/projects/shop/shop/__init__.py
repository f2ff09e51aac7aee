"""Tasks that end as they should, or show what a job sees."""
