"""Programs for CUDA devices: kernels as CUDA C text.  Nothing here needs a device, a driver or CuPy."""
