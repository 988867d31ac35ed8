"""Scenes from intake to their map's row: ledger, intake, inbox, queue, room on the disk, and the check at a start."""
