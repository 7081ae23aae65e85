"""Ollama's API: models in its form, loading them, and what isn't done here."""
