"""The last layer of a network: where it is, what it reads, and the best linear one on a frozen network."""
