"""Conversion of trained softmax models: how much of a task is kept, and after how many steps."""
