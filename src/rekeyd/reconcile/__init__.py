"""One principal: observe, decide, execute one action, look again.

Knows the core's rules and the ports; no adapter, no configuration file, no thread.
"""
