"""The edge: wire shapes in, wire shapes out. It knows nothing of engines."""
