"""Who carries out a frozen plan: this machine's cores, or a SLURM cluster."""
