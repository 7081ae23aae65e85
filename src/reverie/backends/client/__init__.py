"""HTTP/1.1 towards engines: responses off the wire, connections, and their reuse."""
