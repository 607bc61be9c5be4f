"""Trials -> Parquet: the table of trials, and confirmation of each study's best settings."""
