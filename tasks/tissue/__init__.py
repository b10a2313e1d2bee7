"""Soft tissue under surgical tools: finite elements, exams and tables."""
