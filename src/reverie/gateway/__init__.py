"""Who may call, which backend answers, and what became of each request."""
