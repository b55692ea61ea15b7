"""`edgeinfer serve`: one loaded model, several conversations, the protocols of common clients."""
