"""front [layer 3]: sockets and the control routes of each dialect. Inference itself never comes here."""
