"""How many sources a machine sustains: what ``framewatch capacity`` decides, without Ray."""
