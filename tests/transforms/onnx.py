"""The column of ONNX."""
