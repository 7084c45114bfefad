"""Stage 5: all of it together, a container engine."""
