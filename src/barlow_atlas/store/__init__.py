"""Files that outlive a job: checkpoints, locks, how a result was made, weights of others."""
