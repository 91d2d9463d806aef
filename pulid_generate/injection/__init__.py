"""What hangs on Flux's blocks: PuLID's layers and their hooks, skipped layers, compiled blocks."""
