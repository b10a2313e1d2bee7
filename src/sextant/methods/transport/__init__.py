"""Optimal transport between two batches of points, and the couplings of OT-MeanFlow built on it.

Squared Euclidean cost and uniform weights throughout (arXiv 2509.22592).
"""
