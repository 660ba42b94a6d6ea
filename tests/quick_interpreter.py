"""Triton's interpreter without a third of its work.

A launch replaces the functions of ``triton.language`` by interpreted ones, and every call of one
jitted function by another looks for what is left to be replaced: through some 900 attributes each
time, and finds nothing. Here it does not look.
"""

from triton.language import core
from triton.runtime import interpreter


def install() -> None:
    """If this Triton's interpreter has the parts in question."""
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
