"""Writes what TensorFlow Serving needs to serve exported models: its settings, a start command, containers.

`templates/` holds the files with their comments; `settings` fills them in.
"""
