"""What ``benchmarks/cpu.py`` compares: the workloads, and TapeIR, PyTorch, JAX and NumPy computing them."""
