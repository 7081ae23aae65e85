"""The admin API: keys, usage, backends and reload, for the holder of the admin key."""
