"""The bytes of an engine's answer → events or errors, sans-IO."""
