"""Who calls, what they may use, and the ledger of what they used.

Rule: ``http`` and the command line reach the store through this package alone.
"""
