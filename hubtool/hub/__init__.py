"""Floor 3: the client side of a hub: fetch with digests, push as one commit."""
