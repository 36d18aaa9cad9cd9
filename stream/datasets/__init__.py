"""Labelled data: COCO files, MOTChallenge rows, and the pictures they speak of."""
