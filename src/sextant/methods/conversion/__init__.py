"""Softmax attention of a trained model exchanged for another one, its weights kept."""

from sextant.methods.conversion.convert import convert

__all__ = ["convert"]
