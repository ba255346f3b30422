"""A real cluster under real faults: three etcd members and three brokers as processes.

Each has a network namespace and each broker a disk of its own, in a sandbox that the kernel takes
down with the process that made it. What the clients saw is judged by the simulator's checkers.
Not shipped. `python -m integration SEED`; docs/testing.md says the rest.
"""
