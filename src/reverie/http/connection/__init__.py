"""One HTTP connection and one exchange over it: bounds, timeouts, a client that leaves."""
