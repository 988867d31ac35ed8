"""The software aboard: it takes GeoTIFF scenes and makes land-cover maps."""
