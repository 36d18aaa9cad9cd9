"""framewatch's stages distributed over Ray.

``app`` builds the Serve application that ``serve_config.yaml`` names; ``control`` is its ingress and keeps the
``ingest`` and ``aggregator`` actors at what the config asks for; ``detector`` holds the models; ``up`` starts all of it
from the command line. The actors are thin: what they do is in ``stream``.
"""
