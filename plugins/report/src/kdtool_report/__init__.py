"""Reports of runs: the HTML page, and trackers for TensorBoard, trackio and Weights & Biases.

Each is a subpackage or module that imports only its own third parties.
"""
