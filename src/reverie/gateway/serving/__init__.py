"""The models that are served: loading, unloading, and changing them while requests run."""
