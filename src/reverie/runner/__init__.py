"""llama.cpp in a child process: the supervisor here, and the child's main (``child``)."""
