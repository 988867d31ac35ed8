"""Cost of a network or an exported graph: parameters, FLOPs, bytes moved and peak memory."""
