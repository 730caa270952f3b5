"""Networks: build, cut, store, and export as a graph for OpenVINO.

A trained network is three files in one folder, from train_final to the registered version.
"""

NETWORK_FILE = "network.safetensors"  # the weights, for torch; see `trained_network`
GRAPH_FILE = "graph.safetensors"  # the exported graph; see `openvino_engine`
SETS_FILE = "prediction_sets.safetensors"  # see `evaluation.prediction_sets.reference`
