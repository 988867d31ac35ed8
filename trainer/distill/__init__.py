"""Mask-CDKD distillation: a student and the adapters of frozen teachers learn together, without labels."""
