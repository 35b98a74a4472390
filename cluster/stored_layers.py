"""What the store says of one tenant, for commands that show settings while no service runs here."""

from tenants.control.limits_document import read_limits
from tenants.identity.tenant_id import TenantId
from tenants.settings.api_document import read_stored
from tenants.settings.errors import Fault, SettingsError
from tenants.settings.in_force import OverridesInForce
from tenants.settings.overrides import RuntimeOverrides
from tenants.settings.service_config import ServiceConfig
from tenants.store.database import Database
from tenants.store.documents import DocumentStore, UnreadableDocument
from tenants.store.errors import StoreError
from tenants.store.tenants import TenantStore
from tenants.store.url import has_store, store_url


def layers_of(config: ServiceConfig, runtime: RuntimeOverrides, tenant: TenantId) -> OverridesInForce:
    """Return the runtime file's entries with the tenant's document, limits and state, if there is a store.

    Raises:
        SettingsError: the store cannot be read, or what it says of the tenant is damaged.
    """
    name = str(tenant)
    if not has_store(config):
        return OverridesInForce(runtime=runtime)
    try:
        database = Database.open(store_url(config))
        try:
            stored = DocumentStore(database).get(name)
            record = TenantStore(database).get(name)
        finally:
            database.close()
    except StoreError as error:
        raise SettingsError([Fault("", str(error))], "store") from None
    if isinstance(stored, UnreadableDocument):
        raise SettingsError([Fault(name, stored.problem)], "stored document")
    has_documents = config.overrides.user_configurable_overrides.enabled
    documents = {}
    if has_documents and stored is not None and stored.document is not None:
        documents = {name: read_stored(stored.document)[0]}
    return OverridesInForce(
        runtime=runtime,
        documents=documents,
        limits={name: read_limits(record.limits)} if record and record.limits else {},
        states={name: record.state} if record else {},
    )
