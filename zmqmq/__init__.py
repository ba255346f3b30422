"""zmqmq: a durable message queue on ZeroMQ sockets."""
