/* Calls CPython's allocation functions in each of their domains and writes down what a tracker of them owes: one event
 * each, and none for what they call in turn. See native_calls.c. Compiled by the tests; the functions are those of the
 * interpreter that loads it. */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

void *PyMem_RawMalloc(size_t), *PyMem_RawCalloc(size_t, size_t), *PyMem_RawRealloc(void *, size_t);
void *PyMem_Malloc(size_t), *PyMem_Calloc(size_t, size_t), *PyMem_Realloc(void *, size_t);
void *PyObject_Malloc(size_t), *PyObject_Calloc(size_t, size_t), *PyObject_Realloc(void *, size_t);
void PyMem_RawFree(void *), PyMem_Free(void *), PyObject_Free(void *);

enum { PYMALLOC_FREE = 1, PYMALLOC_MALLOC, PYMALLOC_CALLOC, PYMALLOC_REALLOC, FREE, MALLOC };

struct event {
    uint64_t allocator, address, size, category;
};

struct domain {
    void *(*malloc)(size_t), *(*calloc)(size_t, size_t), *(*realloc)(void *, size_t);
    void (*free)(void *);
    uint64_t category;
};

/* The categories follow those of native_calls.c. */
static const struct domain raw = {PyMem_RawMalloc, PyMem_RawCalloc, PyMem_RawRealloc, PyMem_RawFree, 9};
static const struct domain mem = {PyMem_Malloc, PyMem_Calloc, PyMem_Realloc, PyMem_Free, 10};
static const struct domain object = {PyObject_Malloc, PyObject_Calloc, PyObject_Realloc, PyObject_Free, 11};

static __thread struct event *out;
static __thread size_t count;
static __thread uint64_t category;

static void *say(int allocator, void *address, size_t size)
{
    out[count++] = (struct event){allocator, (uint64_t)(uintptr_t)address, size, category};
    return address;
}

static void *moved(void *old, void *fresh, size_t size)
{
    if (!fresh)
        abort();
    if (old)
        say(PYMALLOC_FREE, old, 0);
    return say(PYMALLOC_REALLOC, fresh, size);
}

static void gone(const struct domain *in, void *block)
{
    say(PYMALLOC_FREE, block, 0);
    in->free(block);
}

static void calls(const struct domain *in, size_t s)
{
    category = in->category;
    void *small = say(PYMALLOC_MALLOC, in->malloc(s), s);
    void *large = say(PYMALLOC_MALLOC, in->malloc(100000 + s), 100000 + s);
    void *mapped = say(PYMALLOC_MALLOC, in->malloc(3000000 + s), 3000000 + s);
    void *none = say(PYMALLOC_MALLOC, in->malloc(0), 0);
    void *zeros = say(PYMALLOC_CALLOC, in->calloc(3, s), 3 * s);
    void *no_zeros = say(PYMALLOC_CALLOC, in->calloc(0, s), 0);
    void *direct = say(MALLOC, malloc(s + 77), s + 77); /* not by way of Python */
    void *grown = moved(NULL, in->realloc(NULL, s), s);
    void *old = grown;
    grown = moved(old, in->realloc(old, s + 1000), s + 1000); /* out of an arena */
    old = grown;
    grown = moved(old, in->realloc(old, s + 200000), s + 200000);
    old = grown;
    grown = moved(old, in->realloc(old, s), s); /* and back */
    old = grown;
    grown = moved(old, in->realloc(old, 0), 0); /* a block of no bytes, never a free */
    if (in->malloc(SIZE_MAX / 4) || in->calloc(SIZE_MAX / 8, 2) || in->realloc(grown, SIZE_MAX / 4))
        abort();
    in->free(NULL);
    say(FREE, direct, 0);
    free(direct);
    gone(in, small);
    gone(in, large);
    gone(in, mapped);
    gone(in, none);
    gone(in, zeros);
    gone(in, no_zeros);
    gone(in, grown);
    say(PYMALLOC_MALLOC, in->malloc(s + 3), s + 3); /* stays */
}

/* With the GIL. */
size_t run(struct event *log, size_t fence, size_t s)
{
    out = log;
    count = 0;
    void *a = malloc(fence);
    for (size_t i = 0; i < 20; i++) {
        calls(&raw, s + i);
        calls(&mem, s + i);
        calls(&object, s + i);
    }
    void *b = malloc(fence);
    free(a);
    free(b);
    return count;
}

struct stranger {
    struct event *log;
    size_t fence, size, count;
    int tid;
};

int gettid(void);

static void *live(void *argument)
{
    struct stranger *self = argument;
    out = self->log;
    count = 0;
    self->tid = gettid();
    void *a = malloc(self->fence);
    for (size_t i = 0; i < 100; i++)
        calls(&raw, self->size + i);
    void *b = malloc(self->fence);
    free(a);
    free(b);
    self->count = count;
    return NULL;
}

/* Threads that Python does not know, which may call the raw domain alone. Without the GIL. */
void strangers(struct stranger *first, int number)
{
    pthread_t threads[16];
    for (int i = 0; i < number; i++)
        if (pthread_create(&threads[i], NULL, live, &first[i]))
            abort();
    for (int i = 0; i < number; i++)
        pthread_join(threads[i], NULL);
}

/* Allocates and frees in every domain, and checks what it stored; gives how often. */
long churn(long rounds)
{
    static const struct domain *const domains[] = {&raw, &mem, &object};
    for (long i = 0; i < rounds; i++)
        for (int d = 0; d < 3; d++) {
            size_t size = 16 + (i * 7919 + d) % 2000;
            unsigned char *block = domains[d]->malloc(size);
            block[0] = (unsigned char)i, block[size - 1] = (unsigned char)d;
            block = domains[d]->realloc(block, 2 * size);
            if (block[0] != (unsigned char)i || block[size - 1] != (unsigned char)d)
                abort();
            domains[d]->free(block);
        }
    return rounds;
}
