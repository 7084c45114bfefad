"""Black-box judges of any runtime: what the host's kernel says of a container."""
