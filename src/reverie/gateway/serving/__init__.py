"""Which models there are: loaded, unloaded, reloaded."""
