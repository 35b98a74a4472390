"""What can go wrong in the cluster that is not a refusal: one root, carrying data, surviving pickling."""


class ClusterError(Exception):
    """Root of everything this package raises on purpose."""


class NotConfiguredError(ClusterError):
    """A process was asked to work before the controller told it its settings: right after its restart."""


class StaleCollectorError(ClusterError):
    """A collector asked that has been replaced: what it takes for true about owners is so no more."""


class CommandError(ClusterError):
    """A command cannot do what it was asked for; the message says why and how to mend it."""


class StartError(ClusterError):
    """The service cannot start; the message says what is in the way and how to mend it."""
