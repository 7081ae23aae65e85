"""Reverie: a self-hosted gateway that generates text with language models."""

__version__ = "0.1.0"
