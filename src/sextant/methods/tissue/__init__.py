"""Soft tissue: regularised Kelvinlets and networks that start from them or are held to them."""
