"""Problem -> Reference: the number to tune against, by exact answers, HMC or tempered SMC."""
