"""From stored probe files to curves with intervals. Imports no torch."""
