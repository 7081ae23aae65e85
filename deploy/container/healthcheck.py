"""Exits with 0 if Reverie's process answers in this container, for HEALTHCHECK.

Without imports of HTTP clients it takes a fiftieth of a second. It asks whether the process is
alive and no more: a runtime may end a container that isn't, which would help no model to load.
"""

import os
import socket
import sys

PORT = int(os.environ.get("REVERIE_PORT", "8000"))

with socket.create_connection(("127.0.0.1", PORT), timeout=4) as connection:
    connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
    sys.exit(b" 200 " not in connection.recv(16))
