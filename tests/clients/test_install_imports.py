"""The import hook of install(): modules are found, loaded and reloaded as without it."""

import importlib
import importlib.util
import sys
import threading
import types
import unittest.mock
import zipfile
from importlib.machinery import ModuleSpec, SourceFileLoader

import pytest

from safedial._clients.import_hook import Watch

NAME = "module_that_install_watches"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to import from."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in list(sys.modules):
        if name.startswith(NAME):
            del sys.modules[name]


@pytest.fixture
def file(folder):
    file = folder / f"{NAME}.py"
    file.write_text("value = 1\nloader_inside = __loader__\nspec_loader_inside = __spec__.loader\n")
    return file


@pytest.fixture
def seen():
    """The modules that the hook was told of."""
    return []


@pytest.fixture
def watch(seen):
    watch = Watch(dict.fromkeys((NAME, f"{NAME}.inner"), lambda name, module: seen.append(module)))
    yield watch
    watch.end()
    assert watch not in sys.meta_path


def test_module_imported_later(file, watch, seen):
    watch.begin()
    module = importlib.import_module(NAME)
    assert seen == [module]
    for loader in (
        *(module.__loader__, module.__spec__.loader),
        *(module.loader_inside, module.spec_loader_inside),
    ):
        assert type(loader) is SourceFileLoader


def test_module_imported_before(file, watch, seen):
    module = importlib.import_module(NAME)
    watch.begin()
    assert seen == []
    watch.look()
    assert seen == [module]


@pytest.mark.parametrize("standing", [None, unittest.mock.MagicMock()], ids=["nothing", "mock"])
def test_what_stands_in_its_place_is_left_alone(watch, seen, standing, monkeypatch):
    monkeypatch.setitem(sys.modules, NAME, standing)
    watch.begin()
    assert not seen
    assert sys.modules[NAME] is standing


def test_nothing_is_imported_by_it(file, watch, seen):
    watch.begin()
    assert NAME not in sys.modules
    spec = importlib.util.find_spec(NAME)
    assert NAME not in sys.modules
    assert spec.origin == str(file)
    assert spec.loader.get_source(NAME) == file.read_text()
    assert not seen


def test_reloaded_module(file, watch, seen):
    watch.begin()
    module = importlib.import_module(NAME)
    importlib.reload(module)
    assert seen == [module, module]
    assert type(module.__loader__) is type(module.__spec__.loader) is SourceFileLoader


def test_submodule_and_package(folder, watch, seen):
    package = folder / NAME
    package.mkdir()
    (package / "__init__.py").write_text("from . import inner")
    (package / "inner.py").write_text("")
    watch.begin()
    module = importlib.import_module(NAME)
    assert seen == [module.inner, module]


@pytest.mark.parametrize("text", ["raise ValueError('broken')", "import a_module_that_is_missing", "1 +"])
def test_failing_import_stays_as_it_is(file, watch, seen, text):
    file.write_text(text)
    watch.begin()
    raised = []
    for _ in range(2):
        with pytest.raises((ValueError, ImportError, SyntaxError)) as caught:
            importlib.import_module(NAME)
        raised.append(caught.type)
        watch.end()
    assert raised[0] is raised[1]
    assert not seen
    assert NAME not in sys.modules


def test_missing_module(folder, watch, seen):
    watch.begin()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(NAME)
    assert importlib.util.find_spec(NAME) is None


def test_lazy_loader(file, watch, seen):
    watch.begin()
    spec = importlib.util.find_spec(NAME)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    assert not seen
    assert module.value == 1
    assert seen == [module]


def test_zip_file(folder, watch, seen, monkeypatch):
    archive = folder / "archive.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr(f"{NAME}.py", "value = 2")
    monkeypatch.syspath_prepend(archive)
    watch.begin()
    assert importlib.import_module(NAME).value == 2
    assert len(seen) == 1


class Hook:
    """Somebody else's import hook, which asks all finders again, as wrapt's does."""

    def __init__(self):
        self.executed, self._asking = [], False

    def find_spec(self, name, path=None, target=None):
        if name != NAME or self._asking:
            return None
        self._asking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asking = False
        spec.loader = types.SimpleNamespace(
            create_module=spec.loader.create_module, exec_module=self._executing(spec.loader)
        )
        return spec

    def _executing(self, loader):
        def execute(module):
            module.__loader__ = module.__spec__.loader = loader
            loader.exec_module(module)
            self.executed.append(module)

        return execute


@pytest.mark.parametrize("first", [True, False])
def test_other_hooks(file, watch, seen, first, monkeypatch):
    hook = Hook()
    monkeypatch.setattr(sys, "meta_path", sys.meta_path.copy())
    if first:
        watch.begin()
    sys.meta_path.insert(0, hook)
    if not first:
        watch.begin()
    module = importlib.import_module(NAME)
    watch.end()
    assert seen == hook.executed == [module]
    assert type(module.__loader__) is type(module.__spec__.loader) is SourceFileLoader


class Loaderless:
    """A finder of modules without a loader, and of some with an old one."""

    def __init__(self, loader):
        self.loader = loader

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self.loader, is_package=True) if name == NAME else None


@pytest.mark.parametrize("loader", [None, object()])
def test_modules_that_nothing_executes_are_left_alone(watch, loader, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [Loaderless(loader), *sys.meta_path])
    watch.begin()
    assert importlib.util.find_spec(NAME).loader is loader
    watch.end()


# At the end of each import the module is out of sys.modules for a moment, too.
@pytest.mark.parametrize("absent", [False, True])
def test_module_that_another_thread_is_importing(file, watch, seen, absent):
    inside, go_on = threading.Event(), threading.Event()
    leave, come_back = ("me = sys.modules.pop(__name__)", "sys.modules[__name__] = me") if absent else ("", "")
    file.write_text(f"import sys\n{leave}\nsys.between()\n{come_back}\nvalue = 1\n")
    found = []

    def between():
        inside.set()
        assert go_on.wait(30)

    sys.between = between
    try:
        importing = threading.Thread(target=importlib.import_module, args=(NAME,))
        importing.start()
        assert inside.wait(30)
        beginning = threading.Thread(
            target=lambda: (watch.begin(), watch.look(), found.extend(hasattr(each, "value") for each in seen))
        )
        beginning.start()
        beginning.join(0.2)  # if it does not wait for the import, it is done
        go_on.set()
        importing.join(30)
        beginning.join(30)
    finally:
        del sys.between
    assert found == [True]


def test_no_lock_is_taken_for_a_module_that_nobody_imports(file, watch, seen, monkeypatch):
    importlib.import_module(NAME)
    taken = []
    monkeypatch.setattr(importlib._bootstrap, "_module_locks", {})  # a frame of the test before may keep its lock alive
    monkeypatch.setattr(importlib._bootstrap, "_lock_unlock_module", taken.append)
    watch.look()
    assert len(seen) == 1
    assert not {NAME, f"{NAME}.inner"} & {*taken}


@pytest.mark.parametrize("name", ["_lock_unlock_module", "_module_locks"])
def test_python_without_the_names_of_importlib(file, watch, seen, monkeypatch, name):
    importlib.import_module(NAME)
    names = types.SimpleNamespace(_lock_unlock_module=pytest.fail, _module_locks={NAME: None})
    delattr(names, name)
    monkeypatch.setattr(importlib, "_bootstrap", names)
    with monkeypatch.context() as patched:
        patched.setattr(importlib, "import_module", sys.modules.__getitem__)  # it needs the real ones
        watch.look()
    assert len(seen) == 1


def test_module_that_begins_the_watch_itself(file, watch, seen):
    file.write_text("import sys\nsys.begin_the_watch()\nvalue = 1\n")
    sys.begin_the_watch = lambda: (watch.begin(), watch.look())
    try:
        assert importlib.import_module(NAME).value == 1
    finally:
        del sys.begin_the_watch
    assert len(seen) == 1


def test_threads_that_import_at_once(file, watch, seen):
    watch.begin()
    barrier = threading.Barrier(8)

    def load():
        barrier.wait(30)
        importlib.import_module(NAME)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == [sys.modules[NAME]]


def test_begins_and_ends_often(watch):
    for _ in range(2):
        watch.begin()
        watch.begin()
    assert sys.meta_path.count(watch) == 1
    watch.end()
    watch.end()
    assert watch not in sys.meta_path
