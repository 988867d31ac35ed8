"""Mask-CDKD: a student learns from frozen teachers, and their adapters from it, on imagery without labels."""
