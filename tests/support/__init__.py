"""What the tests share: faults made on the kernel, namespaces, and the faces of safedial."""
