"""The commands of ``framewatch``, one a module; ``stream.cli`` adds them."""
