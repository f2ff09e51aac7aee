"""Tasks that harm the process that runs them."""
