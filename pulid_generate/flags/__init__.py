"""Every flag, as tables: those of a generation, those of each command, and all of sd-cli's.

    commands/      which flags each command takes, and those that only some take
    generation/    the flags of a generation, a table for each subject
    sdcli/         all of sd-cli's flags, and what becomes of them
    help_pages.py  what stands first in the --help of each command

Imports no torch.
"""
