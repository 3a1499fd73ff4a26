"""The Attention Branch Network, the ResNet it is built on, and its file of weights."""
