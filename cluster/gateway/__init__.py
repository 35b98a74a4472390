"""The gateway: OTLP receivers, admission, and dispatch of frames to shard hosts."""
