"""Exams of machine unlearning: what is forgotten, what is kept, what can still be told."""
