"""The sub-commands of pulid-extract, one file each."""
