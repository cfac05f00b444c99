"""The guard's tests on older and newer kernels, under emulation: ``make kernels``. No part of ``make test``."""
