"""The loop, what protects a segment of it, and what walks the chain that it leaves."""
