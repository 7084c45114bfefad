"""Stage 2: processes, mounts, network, host name, IPC and users of its own, by namespaces."""
