"""The commands: `main` of each module is the line, from a YAML to a table."""
