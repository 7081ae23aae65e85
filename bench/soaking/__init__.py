"""A soak: what is soaked, who asks it, what goes wrong, and the accounts at its end."""
