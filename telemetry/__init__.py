"""Measurements on board: power, energy, temperature and load, with their history."""
