"""Adapters: one outside thing a file; foreign exceptions become rekeyd.errors here, and no response body gets through."""
