"""Sextant reruns the experiments of six papers and refills their tables."""

__version__ = "0.1.0"
