"""Training a detector: ``framewatch train``. ``train.py`` is where to start reading; it names the steps in their order."""
