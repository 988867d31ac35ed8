"""`ground export`: maps for readers that know no 4-bit samples, no ZSTD or no GeoTIFF at all."""
