"""The commands of `trainer`: each module adds the parsers of one group, and runs them."""
