"""The numbered expectations of the public suites for senders (remote-write §5.4, §5.5), each against a real receiver.

A sender that sends nothing passes most cases of those suites; here every case looks at requests that have arrived.
"""
