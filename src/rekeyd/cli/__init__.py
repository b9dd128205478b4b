"""The command line: one module a command. Nothing heavy is imported before a command runs.

Results go to stdout, talk to stderr, progress only to a terminal.
"""
