"""An Attention Branch Network in plain PyTorch: values in, values out; imports point down only."""
