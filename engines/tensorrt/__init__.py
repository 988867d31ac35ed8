"""The TensorRT backend: build, storage, CUDA driver and execution of engines."""
