"""From one instant of one or more cameras to a pose in a visual map."""
