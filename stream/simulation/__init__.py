"""Simulated cameras: scenes, the people who walk in them, their pictures, and the truth about both."""
