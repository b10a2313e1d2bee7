"""Doubly stochastic attention on pictures: few tokens, little data, one layer or several."""
