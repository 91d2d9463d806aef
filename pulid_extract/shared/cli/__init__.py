"""What both command lines have in common: output, exit codes, interrupts, flags from tables.
Imports no torch.
"""
