"""repository [layer 2]: what lies on disk, what ought to be loaded, and carrying it out. Knows no sockets."""
