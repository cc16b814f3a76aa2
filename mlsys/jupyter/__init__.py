"""mlsys in IPython and Jupyter: what ``%load_ext mlsys`` adds."""

from mlsys.jupyter.extension import load_ipython_extension, unload_ipython_extension

__all__ = ["load_ipython_extension", "unload_ipython_extension"]
