"""Model files, ONNX and model cards of trained encoders."""
