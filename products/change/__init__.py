"""Change between two maps of one place: which pixels became which class, and the later map made of the earlier one."""
