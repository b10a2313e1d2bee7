"""Everything about Weights & Biases, which mirrors runs; the ledger stays the truth.

Inside this package `import wandb` is the client: imports are absolute everywhere.
"""
