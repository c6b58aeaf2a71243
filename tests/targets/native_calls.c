/* Calls the C library's allocation functions through a module's own slots and writes down what happened, in the
 * capture format's terms: one event for each record that a tracker owes. Compiled by the tests, -O0 -fno-builtin. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { FREE = 5, MALLOC, REALLOC, CALLOC, POSIX_MEMALIGN, ALIGNED_ALLOC, MEMALIGN, VALLOC, PVALLOC, MMAP, MUNMAP };

struct event {
    uint64_t allocator, address, size;
};

/* Absolute relocations in data, beside the slots of calls. */
void *(*volatile malloc_in_table)(size_t) = malloc;
void (*volatile free_in_table)(void *) = free;

static struct event *out;
static size_t count, capacity;

static void *say(int allocator, void *address, size_t size)
{
    if (count < capacity)
        out[count] = (struct event){allocator, (uint64_t)(uintptr_t)address, size};
    count++;
    return address;
}

static void gone(void *address)
{
    if (address)
        say(FREE, address, 0);
    free(address);
}

static const volatile size_t huge = SIZE_MAX / 2;

static void mallocs(size_t s)
{
    void *a = say(MALLOC, malloc(s + 1), s + 1);
    void *zero = say(MALLOC, malloc(0), 0);
    void *big = say(MALLOC, malloc(3000000 + s), 3000000 + s); /* an mmap inside malloc, which is not the caller's */
    void *c = say(CALLOC, calloc(3, s), 3 * s);
    void *cz = say(CALLOC, calloc(0, s), 0);
    if (calloc(huge, 16) || malloc(huge + huge)) /* overflow, out of memory: nothing happened */
        abort();
    gone(a);
    gone(zero);
    gone(big);
    gone(c);
    gone(cz);
    gone(NULL);
    void *t = say(MALLOC, malloc_in_table(s + 3), s + 3);
    say(FREE, t, 0);
    free_in_table(t);
    char *text = strdup("thirty-one characters and a nul"); /* libc's own slot */
    say(MALLOC, text, 32);
    gone(text);
}

static void *moved(void *old, void *fresh, size_t size)
{
    if (old)
        say(FREE, old, 0);
    return say(REALLOC, fresh, size);
}

static void reallocs(size_t s)
{
    void *p = realloc(NULL, s + 5);
    p = moved(NULL, p, s + 5);
    void *wall = say(MALLOC, malloc(24), 24);
    for (size_t i = 1; i <= 8; i++) {
        void *old = p;
        p = realloc(p, s + 5 + i * 4096);
        moved(old, p, s + 5 + i * 4096);
    }
    void *old = p;
    p = realloc(p, s + 7); /* shrinks in place */
    moved(old, p, s + 7);
    if (realloc(p, huge + huge)) /* fails: the old block lives on */
        abort();
    old = p;
    p = reallocarray(p, 3, s); /* libc's own call of realloc */
    moved(old, p, 3 * s);
    if (reallocarray(p, huge, 16))
        abort();
    old = p;
    p = realloc(p, 900000); /* to a mapping of malloc's, and by mremap to a larger one */
    moved(old, p, 900000);
    old = p;
    p = realloc(p, 1900000);
    moved(old, p, 1900000);
    say(FREE, p, 0);
    p = realloc(p, 0); /* glibc frees and returns NULL, others return a block of no bytes */
    if (p) {
        say(REALLOC, p, 0);
        gone(p);
    }
    void *z = realloc(NULL, 0);
    moved(NULL, z, 0);
    gone(z);
    gone(wall);
}

static void aligned(size_t s)
{
    void *p = NULL;
    if (posix_memalign(&p, 64, s + 9))
        abort();
    say(POSIX_MEMALIGN, p, s + 9);
    void *q = NULL;
    if (posix_memalign(&q, 3, 100) != EINVAL || q)
        abort();
    void *a = say(ALIGNED_ALLOC, aligned_alloc(128, 128 * 9), 128 * 9);
    void *m = say(MEMALIGN, memalign(256, s + 11), s + 11);
    void *v = say(VALLOC, valloc(s + 13), s + 13);
#ifndef NO_PVALLOC /* jemalloc has none: the C library's block would be freed by jemalloc */
    gone(say(PVALLOC, pvalloc(s + 15), s + 15));
#endif
    gone(v);
    gone(p);
    gone(m);
    gone(a);
}

static void maps(size_t s)
{
    size_t whole = 8 * 4096, part = 3 * 4096;
    void *m = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    say(MMAP, m, whole);
    void *odd = mmap(NULL, s, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    say(MMAP, odd, s);
    if (mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) /* EINVAL */
        abort();
    if (mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, -1, 0) != MAP_FAILED) /* EBADF */
        abort();
    if (munmap((char *)m + 1, 4096) == 0) /* EINVAL */
        abort();
    say(MUNMAP, (char *)m + whole - part, part);
    munmap((char *)m + whole - part, part);
    say(MUNMAP, m, whole - part);
    munmap(m, whole - part);
    say(MUNMAP, odd, s);
    munmap(odd, s);
}

/* One block a kind stays, to be seen as leaked. */
static void left(size_t s)
{
    say(MALLOC, malloc(s + 17), s + 17);
    say(CALLOC, calloc(1, s + 19), s + 19);
    void *p = say(MALLOC, malloc(s + 21), s + 21);
    void *q = realloc(p, s + 40021);
    moved(p, q, s + 40021);
}

/* Runs everything between two blocks of `fence` bytes and returns the number of events. Calls nothing but the
 * C library in between, so that the thread's records between the fences are exactly the events. */
size_t run(struct event *log, size_t log_capacity, size_t fence, size_t s)
{
    out = log;
    count = 0;
    capacity = log_capacity;
    void *a = malloc(fence);
    mallocs(s);
    reallocs(s);
    aligned(s);
    maps(s);
    left(s);
    void *b = malloc(fence);
    free(a);
    free(b);
    return count;
}

static void *native_thread(void *argument)
{
    size_t size = (size_t)argument;
    for (int i = 0; i < 2000; i++) {
        volatile char *p = malloc(size);
        if (!p)
            abort();
        p[0] = 1;
        free((void *)p);
    }
    return malloc(size);
}

/* Four threads that Python has never heard of: 2,001 blocks of `size` + thread bytes each, the last one stays. */
int run_threads(size_t size)
{
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        if (pthread_create(&threads[i], NULL, native_thread, (void *)(size + i)))
            return 1;
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    return 0;
}

void churn(size_t size, int times)
{
    for (int i = 0; i < times; i++)
        free(malloc(size));
}
