"""The network, what it is fed, where it computes, and the files it is saved in."""
