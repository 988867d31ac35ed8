"""Who works when: ledger, intake, worker, supervisor."""
