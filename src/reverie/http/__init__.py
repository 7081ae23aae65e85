"""The HTTP side: requests in, answers out. It knows wire shapes and nothing of engines."""
