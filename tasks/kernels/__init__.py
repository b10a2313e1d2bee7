"""Kernels that feature maps are to imitate: which maps can represent which kernels."""
