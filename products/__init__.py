"""What is made of class maps, aboard and on the ground: polygons, changes, and the map file itself."""
