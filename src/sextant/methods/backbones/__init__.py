"""Networks that several methods share, and the thin modules that train them."""
