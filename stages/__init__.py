"""The five runtimes, from `chroot` to a complete container. Read README.md first."""
