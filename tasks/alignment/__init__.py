"""Alignment of point clouds by one slicer: data, exams and figures."""
