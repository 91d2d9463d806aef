"""All that pulid_generate may import of pulid_extract: the file format, errors, records, and three
folders.

Imports no torch, but for `cpu_linear`.
"""
