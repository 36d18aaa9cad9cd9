"""The HTTP API: routers over one :class:`~actors.api.backend.Backend`; ``app`` puts them together. Needs no Ray by itself."""
