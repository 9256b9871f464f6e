"""client: a running server's control calls, for the command line. Standard library only, so that a command is
quick to start."""
