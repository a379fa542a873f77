"""Beside the graph: plan, check, measure, watch, export."""
