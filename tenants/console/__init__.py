"""The console: pages for operators and tenants, a face of the API and of nothing else.

Every page asks the API, in this process and with the visitor's own credentials: what a visitor may see and change is
decided there, once, for all ways in.
"""
