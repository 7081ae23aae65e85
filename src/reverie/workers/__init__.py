"""``reverie serve --workers N``: a parent that owns engines and slots, and workers that serve."""
