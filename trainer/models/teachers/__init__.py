"""Teachers: frozen backbones (SAM, DINOv2) with trainable adapters."""
