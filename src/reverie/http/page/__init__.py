"""The page at ``/``: a chat in the browser, with no asset from elsewhere."""
