"""Transport plans lifted from one learned slice: min-STP and its relatives (arXiv 2511.19741).

A slicer gives every point of two clouds one score. Matching equal ranks of scores is optimal
transport on the line, and the same pairs are a transport plan between the clouds themselves.
"""
