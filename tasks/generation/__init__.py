"""Generation in the plane and of digits: data, scores and figures."""
