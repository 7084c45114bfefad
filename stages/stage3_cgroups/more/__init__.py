"""What stage 3 needs and its story doesn't: finding trees, tidying up, counting, and systemd."""
