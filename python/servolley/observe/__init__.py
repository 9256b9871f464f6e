"""observe [layer 1]: metrics and logs. Renders what it is given; knows no other room."""
