"""llama.cpp in a child process: its supervisor (here) and its main (``child``)."""
