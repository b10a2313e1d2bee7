"""The Long Range Arena: five tasks of long sequences, generated or read from real data."""
