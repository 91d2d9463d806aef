"""Every command's flags, as tables. Imports no torch."""
