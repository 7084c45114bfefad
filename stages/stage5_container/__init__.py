"""Stage 5: all of it together: a container that runs by itself, and can be looked after."""
