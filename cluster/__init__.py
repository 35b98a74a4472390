"""WHERE and HOW the work runs: configuration to running actors. The only code that imports ray."""
