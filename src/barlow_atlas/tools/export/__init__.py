"""What leaves the project: research objects, model cards, histories for other tools."""
