"""The processes of `onboard serve`: the supervisor and its children, and how they watch each other."""
