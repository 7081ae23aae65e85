"""A request in the words of each kind of engine."""
