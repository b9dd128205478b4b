"""All principals of all accounts: selection, isolation of failures, leases, brake, mark, alarms.

Knows the reconciler and the ports; no adapter, no configuration file, no scheduler.
"""
