"""`edgeinfer serve`: one loaded model, several conversations, the protocols of the clients that people have."""
