"""Networks: build, cut, load weights, extract features, and export a graph for OpenVINO."""
