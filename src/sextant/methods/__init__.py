"""Algorithms of the papers and their baselines, one family a package."""
