"""Examples that run from the repository's root. They are not installed with Perdure."""
