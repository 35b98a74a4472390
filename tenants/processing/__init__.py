"""The Python face of the engine: plans, shards and their sequence-numbered records."""
