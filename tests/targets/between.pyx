# cython: language_level=3
"""Functions of Cython's between those of Python."""


cdef object inner(object function):
    return function()


def through(function):
    return inner(function)


cdef class Through:
    cdef object function

    def __init__(self, function):
        self.function = function

    def again(self, int depth):
        if depth:
            return self.again(depth - 1)
        return inner(self.function)


def make(size):
    return bytearray(size)


def generate(size, int times):
    for _ in range(times - 1):
        yield None
    yield bytearray(size)
