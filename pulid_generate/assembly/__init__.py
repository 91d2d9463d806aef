"""Flags become a request, people, pictures and a pipeline: what every command that draws needs."""
