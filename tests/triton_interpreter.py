"""Triton's interpreter for tests: without two thirds of its work, and as strict as the compiler."""

from __future__ import annotations

import dataclasses
import functools
import math

from triton.language import core
from triton.runtime import interpreter

# What a launch may give besides a kernel's own arguments, of what is used here.
_OPTIONS = {"num_warps", "num_stages", "enable_fp_fusion"}


def install() -> None:
    skip_what_is_replaced()
    leave_out_unread_checks()
    make_types_once()
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


def leave_out_unread_checks() -> None:
    """Eight operations beside each one of integers find out if it overflows; nobody reads it."""
    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def make_types_once() -> None:
    """The types of blocks, their shapes and NumPy types, which every operation makes anew."""
    whole = interpreter._get_np_dtype
    numpy_type = functools.cache(whole)
    block_type = functools.cache(lambda element, *shape: core.block_type(element, list(shape)))
    shape_and_numel = functools.cache(
        lambda *shape: (core.tuple([core.constexpr(n) for n in shape]), math.prod(shape))
    )

    def numpy_type_of(type):
        return whole(type) if type.scalar.is_ptr() else numpy_type(type.scalar)  # has no hash

    def block_of(element, shape):
        return core.block_type(element, shape) if element.is_ptr() else block_type(element, *shape)

    def init(self, handle, type):
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, numel = shape_and_numel(*(type.shape if type.is_block() else ()))
        self.numel = core.constexpr(numel)

    interpreter._get_np_dtype = numpy_type_of
    core.block_type.with_element_ty = lambda self, element: block_of(element, self.shape)
    interpreter.InterpreterBuilder.get_block_ty = lambda self, *block: block_of(*block)
    if vars(core.tensor(None, core.int32)).keys() == {"handle", "type", "dtype", "shape", "numel"}:
        core.tensor.__init__ = init


def refuse_unknown_arguments() -> None:
    """The interpreter ignores keywords that a kernel does not have; on a GPU they raise."""
    whole = interpreter.InterpretedFunction.run

    @functools.wraps(whole)
    def run(self, *args, grid, warmup, **kwargs):
        if unknown := kwargs.keys() - set(self.arg_names) - _OPTIONS:
            raise TypeError(f"{self.__name__} has no arguments {sorted(unknown)}")
        return whole(self, *args, grid=grid, warmup=warmup, **kwargs)

    interpreter.InterpretedFunction.run = run
