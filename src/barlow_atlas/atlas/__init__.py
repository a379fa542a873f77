"""From records to curves with intervals. Imports no torch."""
