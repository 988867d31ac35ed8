"""One module for each place that measures. Each takes the root of the file system as a parameter."""
