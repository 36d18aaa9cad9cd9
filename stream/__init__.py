"""framewatch's stages as a plain library: source, decode, sample, batch, detect, track, count, alert, emit.

Read the modules in the order of the data: ``config``, ``frame``, ``detections``, ``events``, ``sources``,
``decode``, ``sample``, ``scale``, ``batch``, ``detectors``, ``track``, ``zones``, ``count``, ``alert``, ``sinks``,
``checkpoint``; ``ingest`` and ``aggregate`` join the stages before and after the detector, ``pipeline`` runs the
whole path in one process. Nothing here imports Ray.
"""
