"""A study: its parameters, the runs they expand to, and where its files lie. Loads no torch."""
