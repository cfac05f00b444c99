"""What the tests share: faults made on the kernel, namespaces, and the ways to dial."""
