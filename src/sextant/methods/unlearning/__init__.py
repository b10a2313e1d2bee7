"""Machine unlearning: CovarNav (arXiv 2311.12999) and the methods it is compared with.

One interface for all of them, `problem.Method`: a trained classifier and what the method may see
in, a classifier that forgot out.
"""
