"""What a person sees: lines, tables and progress on the terminal."""
