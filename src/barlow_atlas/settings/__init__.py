"""Parameters: what is trained and how, and how images are augmented. Loads no torch."""
