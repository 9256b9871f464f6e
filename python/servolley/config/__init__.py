"""config [layer 1]: the settings of server and models. Pure: text in, checked structs out."""
