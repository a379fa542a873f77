"""What the graph of jobs goes by: which code made what, which jobs there are, DVC's stages."""
