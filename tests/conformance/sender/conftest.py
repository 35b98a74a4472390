from tests.unit.endpoint_surroundings import around, clock

__all__ = ["around", "clock"]
