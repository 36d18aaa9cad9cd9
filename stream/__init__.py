"""framewatch's stages as a plain library: source, decode, sample, batch, detect, track, count, alert, emit.

Read the modules in the order of the data: ``config``, ``frame``, ``detections``, ``events``, ``sources``,
``decode``, ``backlog``, ``effort``, ``gate``, ``sample``, ``scale``, ``batch``, ``detectors``, ``track``, ``zones``,
``count``, ``alert``, ``drift``, ``sinks``, ``checkpoint``; ``intake`` joins the stages before the batcher, ``ingest`` and
``aggregate`` those before and after the detector, ``pipeline`` runs the whole path in one process. Nothing here
imports Ray.
"""
