"""Who calls, what they may use, and the ledger of what they used."""
