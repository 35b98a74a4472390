"""OpenTelemetry traces of Millrace itself: what is traced sees ``spans``, which imports nothing of OpenTelemetry."""
