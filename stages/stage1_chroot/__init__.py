"""Stage 1: a root directory of its own, by `chroot(2)`, and nothing else."""
