"""Health, versions, models, hardware, metrics and the description of the API."""
