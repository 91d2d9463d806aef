"""Every flag, as tables: those of a generation in parts, those of each command, and all of
sd-cli's. Imports no torch.
"""
