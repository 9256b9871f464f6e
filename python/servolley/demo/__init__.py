"""The whole journey on real data: train, import, serve, ask through both APIs, look at the numbers, shut
down.

``python -m servolley.demo [DIRECTORY]`` after ``pip install servolley[demo]``. Rule of the room: a user of
the product like any other - it talks to the server over its sockets and imports nothing of it but the
importer.
"""
