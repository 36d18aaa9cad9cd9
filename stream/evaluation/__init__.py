"""How good the results are: detections, tracks, counts, alerts, classes and masks against the truth."""
