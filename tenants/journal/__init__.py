"""What a collector must not lose: every change of every tenant, in order, before it is acknowledged to anybody.

An SQL database of its own, or one shared with the control plane. What the entries mean is decided by whoever writes
them.
"""
