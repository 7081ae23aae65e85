"""What can generate. A backend yields events; it knows nothing of keys, limits or dialects."""
