"""Export of trained encoders: model files, ONNX, torch.export, model cards."""
