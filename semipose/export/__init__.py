"""Trained networks as files of other runtimes: ONNX and torch.export, with decoding inside."""
