"""The journal's schema, step by step. Shipped in the wheel; `rekeyd.adapters.journal_migration` runs it at open."""
