"""How good estimated poses are: recall, trajectory errors, calibration, and a report to read."""
