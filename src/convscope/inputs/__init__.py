"""Networks and images that a user brings."""
