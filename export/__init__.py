"""What outlives the process: artifacts, ONNX graphs and parity, scored nights, releases, ledger, command line."""
