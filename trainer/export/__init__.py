"""From trained weights to a model folder: ONNX in several precisions, calibration, provenance and card."""
