"""LUNA: linear attention with a learned kernel feature map (arXiv 2512.08061)."""
