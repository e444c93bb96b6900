"""Native code through llvmlite: LLVM text from scalar primitives, compiled in process, the kernel table made of it, and threads."""
