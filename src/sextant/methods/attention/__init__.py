"""Attention of the Long Range Arena: LUNA (arXiv 2512.08061) and the methods it is compared with.

One interface for all of them, `base.Attention`: queries, keys, values and a key mask in, one row of
mixed values for each query out.
"""
