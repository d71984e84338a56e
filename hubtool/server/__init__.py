"""Floor 3: the hub itself: git repositories, a sha256 store, the protocol of the official clients."""
