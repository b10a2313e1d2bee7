"""What the runs say: definitions of the tables, statistics, claims, and pages made from the ledger.

Nothing here imports torch or numpy, so a table is rendered in well under a second.
"""
