"""How a run comes to be: what it is, where it is kept, who carries it out."""
