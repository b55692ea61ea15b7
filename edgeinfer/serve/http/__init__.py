"""What every protocol shares of HTTP: reading a body, errors, streams, and who may ask."""
