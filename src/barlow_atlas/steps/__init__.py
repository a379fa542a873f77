"""The steps of the graph, a file each: what `python -m barlow_atlas <step>` calls."""
