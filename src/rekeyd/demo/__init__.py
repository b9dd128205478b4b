"""The embedded world and the demonstration that lives in it (extra `rekeyd[demo]`)."""
