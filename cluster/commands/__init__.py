"""What the commands of ``millrace`` do, one module for each; :mod:`cluster.cli` says how they are typed.

Commands that concern a running service ask it over its API, as any operator could, by way of
:mod:`cluster.commands.service_access`; ``config``, ``token`` and ``doctor`` look at files and stores themselves, for
when no service runs. None imports ray.
"""
