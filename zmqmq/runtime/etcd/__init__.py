"""The metadata store of a cluster: etcd, through a client of our own.

Why not one of the clients on PyPI: docs/decisions/0012-own-etcd-client.md.
"""
