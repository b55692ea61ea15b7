"""What is here: the device profile, found or named."""
