"""What attentions cost: time and memory of both passes against the number of tokens."""
