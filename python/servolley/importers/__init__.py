"""A trained model becomes a model repository entry, verified. Rule of the room: nothing here is imported by
the server; a framework or converter is imported inside the function that needs it."""
