"""Tasks that tell which version of their code runs."""
