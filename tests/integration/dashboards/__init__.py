"""What users' dashboards ask of the demo's metrics has the right answer: the numbered queries of remote-write §4.

A real service counts the demo's own traffic and writes it to one real Prometheus a tenant, which is asked as Grafana
asks. What is right is said by the reference model and by the shops' own descriptions. ``acme`` has the demo's settings;
``globex`` has everything on that a query needs.
"""
