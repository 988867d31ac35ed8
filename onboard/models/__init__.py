"""Models that come up the link: their files, whose word counts, what is checked before they fly, and the way back."""
