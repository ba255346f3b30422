"""Load against a running broker through the public client, and what it cost."""
