"""How like the training imagery a tile is: fitted on features of the encoder, added to an exported graph."""
