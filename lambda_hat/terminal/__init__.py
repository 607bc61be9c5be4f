"""Terminal output: lines, tables and progress."""
