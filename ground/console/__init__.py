"""The ground's console: a page on this machine over what the station holds, and live while a pass lasts."""
