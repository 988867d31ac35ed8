"""The main job beside the tools that people use today: `make bench-peers`."""
