"""What the control plane keeps: documents of tenants, tenants, tokens, audit and usage, in one SQL database.

SQLite in a file, or PostgreSQL. The stores store and compare revisions; what a document may say is checked elsewhere.
Everything here blocks and may be called from several threads.
"""
