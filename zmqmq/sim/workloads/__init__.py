"""What simulated clients do: each a node with one process, which may die and start again."""
