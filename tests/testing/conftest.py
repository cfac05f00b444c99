"""What the tests of safedial.testing share: plain clients, and both mechanisms of a fault."""

import pytest

from safedial._tcp import steering
from tests.support import faults, plain


@pytest.fixture(params=["as the kernel can", "bind"])
def mechanism(request, monkeypatch):
    """Both mechanisms of a fault: Linux's, and the one for other systems and older kernels."""
    if request.param == "bind":
        monkeypatch.setattr(steering, "ON_LINUX", False)
    return request.param if faults.kernel_steers() else "bind"


@pytest.fixture(params=plain.CLIENTS)
def client(request):
    """Plain clients, each as ``client(host, port)``."""
    return plain.CLIENTS[request.param]
