"""labrun: the command that plays, checks and explains the five runtimes."""
