"""What both command lines have in common. Imports no torch.

console.py     standard output and error, exit codes
flags.py       a dataclass of flags -> a command line
interrupts.py  Ctrl-C that lets the work in hand be finished
"""
