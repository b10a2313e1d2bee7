"""The exams: one package a family, and the descriptions of the data sets they use."""
