"""What a tenant may send: how many bytes a second, and how soon it is answered (tenancy §4).

``Admission`` says for each request whether it is let in, by the tenant's state and the tokens of its ``RateLimiter``.
``ArtificialDelay`` holds answers back. Limits of the metrics that come of spans are the engine's.
"""

from tenants.limits.admission import Admission, AdmissionReason, AdmissionRefused
from tenants.limits.delay import ArtificialDelay

__all__ = ["Admission", "AdmissionReason", "AdmissionRefused", "ArtificialDelay"]
