"""Adapters: one outside thing a file.

Foreign exceptions become `rekeyd.errors` here, and no response body gets through.
"""
