"""Power, energy and temperature: what is measured, what a scene used, and the limits that are kept."""
