"""HTTP: whether the daemon lives and is well, what it measures, and what it knows. Nothing here changes anything."""
