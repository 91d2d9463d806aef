"""The sub-commands of pulid-generate, one file each."""
