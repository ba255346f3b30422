"""A simulated world for brokers and clients: time, chance, network, metadata store and disk."""
