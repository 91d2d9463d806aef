"""What a file is, from its header, and whether this machine is ready. Imports no torch."""
