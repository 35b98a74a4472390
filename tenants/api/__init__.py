"""The HTTP API: what tenants and operators may ask and change. Spells out; decides nothing but who may ask."""
