"""Unpickle models with an allow-list: no pickle decides what runs here.

A pickle names what it needs (globals: classes and functions) and calls it. Two lists must both have a name before it is
even imported: the one that was recorded when the model was saved, in the manifest that the registry vouches for, and
the policy of this module, because whoever may write to the bucket can have a manifest registered, too.
A package's name alone would not do: scikit-learn has functions that give any attribute of any object, and SciPy's
distributions and a DataFrame run text. So classes are allowed by module, functions by name; only what was named is
called; and only lists, dicts and sets are filled, as an object could bring an ``append`` of the pickle's choice.
"""

import importlib
import pickle
import re
import sys
from collections import deque
from collections.abc import Collection
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar, NoReturn

import numpy as np
from joblib.numpy_pickle import NumpyArrayWrapper, NumpyUnpickler

from mlsys.errors import MlsysError, SettingsError, UntrustedError, VerificationError

_PACKAGES = ("joblib", "numpy", "pandas", "pyarrow", "scipy", "sklearn")  # that this policy knows
_ARRAY = "joblib.numpy_pickle:NumpyArrayWrapper"
# Names that may be resolved, and called while a model is unpickled. None of them imports, opens, evaluates or looks up.
_CALLED = re.compile(
    r"""builtins:(bool|bytearray|bytes|complex|dict|float|frozenset|int|list|object|range|set|slice|str|tuple)
    | collections:(Counter|OrderedDict|defaultdict|deque)
    | datetime:(date|datetime|time|timedelta|timezone) | decimal:Decimal | functools:partial | re:_compile
    | numpy:(dtype|ndarray|matrix)
    | numpy\._core\.(multiarray:(_reconstruct|scalar)|numeric:_frombuffer|_internal:_convert_to_stringdtype_kwargs)
    | numpy\.ma(\.core)?:(_mareconstruct|MaskedArray|MaskedConstant)
    | numpy\.random\._pickle:__(bit_generator|generator|randomstate)_ctor
    | (numpy\.random|pandas\._libs|sklearn)\.[\w.]+:(__pyx_unpickle_\w+|newObj)
    | pandas\._libs\.(internals:_unpickle_block|tslibs\.\w+:_\w*unpickle\w*) | pandas\.core\.indexes\.base:_new_Index
    | pyarrow\.lib:(_restore_array|py_buffer|type_for_alias)""",
    re.VERBOSE,
)
# Names that may be resolved, and called, when they are classes of that package.
_CLASSES = re.compile(
    r"""sklearn\.(?!(?:externals|datasets|experimental|conftest|utils\.(?:parallel|_testing|_mocking))\b)
        (?!.*\btests?\b)[\w.]+:[\w.]+
    | numpy(\.dtypes)?:\w+ | numpy\.random\._\w+:[A-Z]\w+ | numpy\.random\.bit_generator:SeedSequence
    | scipy\.sparse\._\w+:\w+ | scipy\.interpolate\._bsplines:\w+ | scipy\.spatial\._(ckdtree|kdtree):\w+
    | pandas:(\w*Index|\w+Dtype|Series|Categorical|Interval|Period|Timedelta|Timestamp)
    | pandas\.arrays:\w+ | pandas\.core\.internals\.\w+:\w+ | pandas\._libs\.sparse:\w+""",
    re.VERBOSE,
)
# Names that may be resolved, but never called meanwhile: what models apply to numbers when they predict.
_APPLIED = re.compile(
    r"""numpy:(abs|around|average|clip|cumsum|diff|max|mean|median|min|nan_to_num|nanmean|nanmedian|prod|ravel|round|std|sum|var)
    | pandas:NA
    | sklearn\.metrics\.(_classification|_ranking|_regression|pairwise):(?!_)\w+
    | sklearn\.(feature_selection\._(univariate_selection|mutual_info)|preprocessing\._data):(?!_)\w+
    | sklearn\.cluster\._kmeans:_kmeans_single_(lloyd|elkan)""",
    re.VERBOSE,
)
_UFUNCS = re.compile(r"(numpy|scipy\.special)(\.\w+)*:\w+")
_NOT_A_MODULE = (
    "needs {}, which is defined in a notebook or script and nowhere else: move it to a module, import it from there,"
    " and name the module's package in MLSYS_MODEL_PACKAGES"
)
_REFUSED = (  # opcodes that joblib does not write
    pickle.INST
    + pickle.OBJ
    + pickle.GLOBAL
    + pickle.EXT1
    + pickle.EXT2
    + pickle.EXT4
    + pickle.PERSID
    + pickle.BINPERSID
)


def read_model(path: Path, globals_: Collection[str], trusted: Collection[str], *, of: str) -> Any:
    """Unpickle a model that may use ``globals_``, as the registered manifest lists them, if the policy agrees.

    Parameters
    ----------
    trusted
        Packages whose classes and functions models may use besides scikit-learn's: ``MLSYS_MODEL_PACKAGES``.
    of
        What it is, for messages: ``model.joblib of titanic-survival/v1``.

    Raises
    ------
    UntrustedError
        It is compressed, or needs or does what no model may. What it asked for was not run.
    VerificationError
        It is no pickle of joblib's, or cannot be made here.
    """
    return _read(path, globals_, trusted, of)[0]


def read_back(path: Path, trusted: Collection[str]) -> tuple[Any, tuple[str, ...]]:
    """Unpickle a model that was just written; return it with the globals that it needs, each ``module:name``.

    Raises
    ------
    UntrustedError, VerificationError
        As `read_model`: nobody could load it.
    """
    return _read(path, None, trusted, "the model")


def check_class(full: str, trusted: Collection[str], of: str) -> None:
    """Raise `UntrustedError` unless ``module:name`` is a class, or a ufunc, that a model of any format may use.

    Stricter than for pickles, where it is known what is called: only classes of the package that they are named by.
    """
    module, _, name = full.partition(":")
    package = module.partition(".")[0]
    if package in ("__main__", "__mp_main__"):
        raise UntrustedError(f"{of} {_NOT_A_MODULE.format(name)}")
    if package in sys.stdlib_module_names or not (
        package in trusted or _CLASSES.fullmatch(full) or _UFUNCS.fullmatch(full)
    ):
        raise UntrustedError(f"{of} {_no_model_may_use(full, trusted)}")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):  # what has no module of its own, such as a method
        found = None
    own = isinstance(found, type) and str(found.__module__).partition(".")[0] == package
    if own and package == "numpy":
        own = issubclass(found, np.generic | np.dtype)  # type: ignore[arg-type] # found is a class here
    if not (own or isinstance(found, np.ufunc)):
        raise UntrustedError(f"{of} {_no_model_may_use(full, trusted)}")


def _no_model_may_use(full: str, trusted: Collection[str]) -> str:
    package = full.partition(":")[0].partition(".")[0]
    known = package in sys.stdlib_module_names or package in _PACKAGES or package in trusted
    way_out = "" if known else f"; if {package} is yours, name it in MLSYS_MODEL_PACKAGES here and where models run"
    return f"needs {full}, which no model may use{way_out}"


def _read(
    path: Path, granted: Collection[str] | None, trusted: Collection[str], of: str
) -> tuple[Any, tuple[str, ...]]:
    if python := sorted(sys.stdlib_module_names & {*trusted}):
        raise SettingsError(f"MLSYS_MODEL_PACKAGES must name your own packages, got {python[0]!r}, a part of Python")
    with path.open("rb") as file:
        if file.read(1) != pickle.PROTO:
            raise UntrustedError(f"{of} is compressed or no pickle: a model is what joblib writes with compress=0")
        file.seek(0)
        unpickler = _ModelUnpickler(file, granted, trusted, of)
        try:
            estimator = unpickler.load()
        except MlsysError:
            raise
        except Exception as exc:
            raise VerificationError(f"{of} cannot be unpickled here ({type(exc).__name__}: {exc})") from exc
    return estimator, tuple(sorted(unpickler.found))


class _ModelUnpickler(NumpyUnpickler):
    dispatch: ClassVar = dict(NumpyUnpickler.dispatch)

    def __init__(self, file: Any, granted: Collection[str] | None, trusted: Collection[str], of: str) -> None:
        super().__init__("", file, ensure_native_byte_order=True)
        self._granted, self._trusted, self._of = granted, trusted, of
        self.found: dict[str, Any] = {}
        self._callable: dict[int, bool] = {}  # by id of what was found

    def nested(self) -> "_ModelUnpickler":
        """Return the unpickler of an array of objects, a pickle of its own that stands next in the file."""
        inner = _ModelUnpickler(self.file_handle, self._granted, self._trusted, self._of)
        inner.found, inner._callable = self.found, self._callable
        return inner

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}:{name}"
        if full not in self.found:
            self.found[full] = self._find(module, name, full)
        return self.found[full]

    def _find(self, module: str, name: str, full: str) -> Any:
        package = module.partition(".")[0]
        if package in ("__main__", "__mp_main__"):
            self.refuse(_NOT_A_MODULE.format(name))
        if self._granted is not None and full not in self._granted:
            self.refuse(f"needs {full}, which was not recorded when it was saved")
        if self.proto < 4:  # joblib writes 4, and older ones give some names another meaning
            self.refuse(f"is a pickle of protocol {self.proto}, joblib writes 4")
        rules = (_CALLED, _CLASSES, _APPLIED, _UFUNCS)
        if full != _ARRAY and package not in self._trusted and not any(rule.fullmatch(full) for rule in rules):
            self._refuse_name(full)
        found = _Array if full == _ARRAY else super().find_class(module, name)
        called = full == _ARRAY or bool(_CALLED.fullmatch(full)) or self._is_own(found, full, package)
        if not (called or _APPLIED.fullmatch(full) or (isinstance(found, np.ufunc) and _UFUNCS.fullmatch(full))):
            self._refuse_name(full)
        self._callable[id(found)] = called
        return found

    def _is_own(self, found: Any, full: str, package: str) -> bool:
        """Whether it is a class, or of a trusted package a function, that its package did not import from elsewhere."""
        kinds = (type, FunctionType) if package in self._trusted else type
        if not isinstance(found, kinds) or str(found.__module__).partition(".")[0] != package:
            return False
        if package == "numpy" and not full.startswith("numpy.random."):
            return isinstance(found, type) and issubclass(found, np.generic | np.dtype)  # not memmap, which opens files
        return package in self._trusted or _CLASSES.fullmatch(full) is not None

    def _refuse_name(self, full: str) -> NoReturn:
        self.refuse(_no_model_may_use(full, self._trusted))

    def refuse(self, what: str) -> NoReturn:
        raise UntrustedError(f"{self._of} {what}")

    def _check_call(self, function: Any, arguments: Any) -> None:
        name = getattr(function, "__name__", type(function).__name__)
        if not self._callable.get(id(function)) or type(arguments) is not tuple:
            self.refuse(f"calls {name}, which is for no pickle to call")
        if isinstance(function, type) or not arguments:
            return
        # Functions that make an object of their first argument's class; the random ones call their second.
        if (name.endswith("_ctor") and len(arguments) > 1) or _has_own(arguments[0], "__new__"):
            self.refuse(f"calls {name} with something to be called")

    def load_reduce(self) -> None:
        self._check_call(*self.stack[-2:])
        NumpyUnpickler.load_reduce(self)

    def load_newobj(self) -> None:
        self._check_call(*self.stack[-2:])
        NumpyUnpickler.load_newobj(self)

    def load_newobj_ex(self) -> None:
        self._check_call(*self.stack[-3:-1])
        NumpyUnpickler.load_newobj_ex(self)

    def load_build(self) -> None:
        target = self.stack[-2]
        if isinstance(target, type) or id(target) in self._callable:
            self.refuse(f"changes {getattr(target, '__name__', target)}")
        if hasattr(target, "__setstate__") and (
            _has_own(target, "__setstate__") or not hasattr(type(target), "__setstate__")
        ):
            self.refuse(f"gives a {type(target).__name__} a __setstate__ of its own")
        NumpyUnpickler.load_build(self)

    def refuse_opcode(self) -> NoReturn:
        self.refuse("is not written by joblib: it has an opcode that joblib does not use")

    dispatch.update(dict.fromkeys(_REFUSED, refuse_opcode))
    dispatch.update({pickle.REDUCE[0]: load_reduce, pickle.NEWOBJ[0]: load_newobj})
    dispatch.update({pickle.NEWOBJ_EX[0]: load_newobj_ex, pickle.BUILD[0]: load_build})


def _filling(opcode: bytes, below: int | None, kinds: tuple[type, ...]) -> None:
    """Let an opcode that adds to a container do so only for ``kinds``; ``below`` is where it is, None: under a mark."""
    load = NumpyUnpickler.dispatch[opcode[0]]

    def checked(self: _ModelUnpickler) -> None:
        target = self.metastack[-1][-1] if below is None else self.stack[below]
        if not isinstance(target, kinds) or getattr(target, "__dict__", None):
            self.refuse(f"fills a {type(target).__name__}")
        load(self)

    _ModelUnpickler.dispatch[opcode[0]] = checked


_filling(pickle.APPEND, -2, (list, deque))
_filling(pickle.APPENDS, None, (list, deque))
_filling(pickle.SETITEM, -3, (dict,))
_filling(pickle.SETITEMS, None, (dict,))
_filling(pickle.ADDITEMS, None, (set,))


def _has_own(target: Any, name: str) -> bool:
    return not isinstance(target, type) and name in getattr(target, "__dict__", ())


class _Array(NumpyArrayWrapper):
    """Where joblib puts an array: the bytes follow, or for objects another pickle."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        if not state.keys() <= {"subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes"}:
            raise UntrustedError(f"an array of the model has unknown attributes: {', '.join(map(str, state))}")
        if not isinstance(state["dtype"], np.dtype):
            raise UntrustedError(f"an array of the model has the dtype {type(state['dtype']).__name__}")
        self.__dict__.update(state)

    def read_array(self, unpickler: _ModelUnpickler, ensure_native_byte_order: bool) -> Any:
        if self.dtype.hasobject:
            return unpickler.nested().load()
        return super().read_array(unpickler, ensure_native_byte_order)
