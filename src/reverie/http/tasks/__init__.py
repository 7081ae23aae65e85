"""The routes that do something else than generate: vectors, rankings, tokens. No streams."""
