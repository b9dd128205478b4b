"""One file a step, named by its revision. A released step is never edited."""
