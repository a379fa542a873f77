"""What every milestone is asked."""
