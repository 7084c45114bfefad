"""What need not be read to understand a container: each command a room of its own."""
