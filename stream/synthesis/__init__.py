"""Synthetic training pictures: real objects, cut out, standing in other places."""
