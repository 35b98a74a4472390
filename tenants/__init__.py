"""WHAT is done for a tenant: settings, identity, processing, the way out. True without any cluster.

Nothing here imports ray or anything from ``cluster``.
"""
