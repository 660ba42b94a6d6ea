"""Triton's interpreter for tests: without a third of its work, and as strict as the compiler."""

from __future__ import annotations

import functools

from triton.language import core
from triton.runtime import interpreter

# What a launch may give besides a kernel's own arguments, of what is used here.
_OPTIONS = {"num_warps", "num_stages", "enable_fp_fusion"}


def install() -> None:
    skip_what_is_replaced()
    refuse_unknown_arguments()


def skip_what_is_replaced() -> None:
    """If this Triton's interpreter has the parts in question.

    A launch replaces the functions of ``triton.language`` by interpreted ones, and every call of
    one jitted function by another looks for what is left to be replaced: through some 900
    attributes each time, and finds nothing. Here it does not look.
    """
    parts = ("_patch_lang", "_LangPatchScope", "tl")
    if not all(hasattr(interpreter, part) for part in parts):
        return
    whole = interpreter._patch_lang

    def patch_lang(function):
        globals_ = function.__globals__.values()
        languages = [v for v in globals_ if v is interpreter.tl or v is core]
        if languages and not any(core.is_builtin(language.load) for language in languages):
            return interpreter._LangPatchScope()  # nothing to restore either
        return whole(function)

    interpreter._patch_lang = patch_lang


def refuse_unknown_arguments() -> None:
    """The interpreter ignores keywords that a kernel does not have; on a GPU they raise."""
    whole = interpreter.InterpretedFunction.run

    @functools.wraps(whole)
    def run(self, *args, grid, warmup, **kwargs):
        if unknown := kwargs.keys() - set(self.arg_names) - _OPTIONS:
            raise TypeError(f"{self.__name__} has no arguments {sorted(unknown)}")
        return whole(self, *args, grid=grid, warmup=warmup, **kwargs)

    interpreter.InterpretedFunction.run = run
