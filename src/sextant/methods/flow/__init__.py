"""Flow matching and mean flows with coupled pairs (arXiv 2505.13447, 2509.22592).

Time runs from the data at t = 0 to the source at t = 1, and 0 <= r <= t <= 1.
"""
