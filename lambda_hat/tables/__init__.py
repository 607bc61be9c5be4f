"""Trials -> Parquet: one row a trial that was ever asked, and what confirming runs say."""
