"""mirror: a repository that lies elsewhere, copied into a folder of this machine. In a process of its own, so
that neither the libraries for it nor the work are the server's; only process.py and repository.py run in the
server."""
