"""The protocol between gateways, shard hosts and collector, as a model that is checked in all its states."""
