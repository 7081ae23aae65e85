"""Which backend of a model takes a request, and whose turn it is."""
