"""Methods: one file each, functions that take a model and give a labelled result; `result.load` opens a saved one."""
