"""A simulated drive: a procedurally painted street, rendered, with every sensor's messages."""
