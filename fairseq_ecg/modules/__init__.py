"""Layers that two or more models use; one concept per file."""
