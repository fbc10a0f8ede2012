"""ROS 2 nodes: parameters in, core objects called, messages out."""
