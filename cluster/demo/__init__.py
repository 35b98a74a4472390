"""``make run``: two small shops played through the real OTLP port, and a live view of their metrics.

* The shops: ``model`` (the vocabulary), ``acme`` and ``globex`` (the two descriptions), ``shop`` (plays one
  as spans), ``semconv``, ``otlp``, and ``traffic`` (sends them, a program of its own).
* The receivers: ``readings`` (what is asked of one), ``receiver`` (chooses), ``prometheus``, and the built-in
  ``memory`` over ``store`` and ``write_request``.
* The view: ``red`` and ``graph`` (rows and tree), ``frame`` (what is shown), ``figures``, ``tables``,
  ``view``.
* The whole: ``workspace`` (files, ports), ``children`` (processes), ``stage`` (their order), ``run``.

Nothing outside this package imports it but the command line, and nothing in it knows Ray.
"""
