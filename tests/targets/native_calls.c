/* Calls the C library's allocation functions through a module's own slots and writes down what happened, in the
 * capture format's terms: one event for each record that a tracker owes. Compiled by the tests, -O0 -fno-builtin. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FREE = 5, MALLOC, REALLOC, CALLOC, POSIX_MEMALIGN, ALIGNED_ALLOC, MEMALIGN, VALLOC, PVALLOC, MMAP, MUNMAP };

/* What an event is a case of, for the table that the test prints. */
enum { MALLOCS, REALLOCS, ALIGNED, MAPS, REMAPS, BREAKS, SIGNALS, LEFT, ENDINGS };

struct event {
    uint64_t allocator, address, size, category;
};

/* Absolute relocations in data, beside the slots of calls. */
void *(*volatile malloc_in_table)(size_t) = malloc;
void (*volatile free_in_table)(void *) = free;

static __thread struct event *out;
static __thread size_t count, capacity, category;

static void *say(int allocator, void *address, size_t size)
{
    if (count < capacity)
        out[count] = (struct event){allocator, (uint64_t)(uintptr_t)address, size, category};
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
    category = MALLOCS;
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
    category = REALLOCS;
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
    category = ALIGNED;
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
    category = MAPS;
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

static char *mapped(size_t length)
{
    return say(MMAP, mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), length);
}

static void unmapped(void *start, size_t length)
{
    say(MUNMAP, start, length);
    munmap(start, length);
}

/* Grown, shrunk or moved: the old range ends, the new one begins. */
static char *remapped(void *old, size_t old_length, size_t length, int flags, void *wanted)
{
    char *now = mremap(old, old_length, length, flags, wanted);
    if (now == MAP_FAILED)
        return NULL;
    say(MUNMAP, old, old_length);
    if (flags & MREMAP_FIXED)
        say(MUNMAP, now, length);
    return say(MMAP, now, length);
}

static void remaps(size_t s)
{
    category = REMAPS;
    const size_t page = 4096;
    char *m = mapped(16 * page);
    unmapped(m + 4 * page, 12 * page);
    m = remapped(m, 4 * page, 10 * page, MREMAP_MAYMOVE, NULL); /* in place, unless another thread was quicker */
    m = remapped(m, 10 * page, 2 * page, 0, NULL);
    char *to = mapped(6 * page);
    m = remapped(m, 2 * page, 3 * page, MREMAP_MAYMOVE | MREMAP_FIXED, to + page); /* over a range that lives */
    if (mremap((void *)page, page, 2 * page, MREMAP_MAYMOVE) != MAP_FAILED) /* EFAULT */
        abort();
    if (mremap(m, 3 * page, 0, MREMAP_MAYMOVE) != MAP_FAILED) /* EINVAL */
        abort();
    unmapped(to, 6 * page);
    char *odd = remapped(mapped(s), s, 2 * s, MREMAP_MAYMOVE, NULL); /* no whole pages */
    unmapped(odd, 2 * s);
    m = mapped(4 * page);
    char *other = mremap(m, 4 * page, 4 * page, MREMAP_MAYMOVE | 4); /* DONTUNMAP: the old range stays, empty */
    if (other != MAP_FAILED) {
        say(MMAP, other, 4 * page);
        unmapped(other, 4 * page);
    }
    unmapped(m, 4 * page);
    m = mmap(NULL, 4 * page, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    say(MMAP, m, 4 * page);
    other = say(MMAP, mremap(m, 0, 4 * page, MREMAP_MAYMOVE), 4 * page); /* of a shared range: once more */
    unmapped(m, 4 * page);
    unmapped(other, 4 * page);
    m = mapped(8 * page);
    say(MUNMAP, m + 2 * page, 3 * page);
    say(MMAP, mmap(m + 2 * page, 3 * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), 3 * page);
    unmapped(m, 8 * page);
}

/* Only while nobody else moves the program break. */
static void breaks(void)
{
    category = BREAKS;
    char *old = sbrk(0);
    if (sbrk(8192) != old)
        abort();
    say(MMAP, old, 8192);
    say(MUNMAP, old + 4096, 4096);
    sbrk(-4096);
    if (brk(old) || brk(old + 12288) || brk(old))
        abort();
    say(MUNMAP, old, 4096);
    say(MMAP, old, 12288);
    say(MUNMAP, old, 12288);
    if (sbrk(INTPTR_MAX) != (void *)-1)
        abort();
}

static void on_signal(int number)
{
    gone(say(MALLOC, malloc(3000 + number), 3000 + number));
}

static void signals(void)
{
    category = SIGNALS;
    struct sigaction action = {.sa_handler = on_signal}, before;
    sigaction(SIGURG, &action, &before);
    raise(SIGURG);
    sigaction(SIGURG, &before, NULL);
}

/* One block a kind stays, to be seen as leaked. */
static void left(size_t s)
{
    category = LEFT;
    say(MALLOC, malloc(s + 17), s + 17);
    say(CALLOC, calloc(1, s + 19), s + 19);
    void *p = say(MALLOC, malloc(s + 21), s + 21);
    void *q = realloc(p, s + 40021);
    moved(p, q, s + 40021);
}

/* Runs everything between two blocks of `fence` bytes and returns the number of events. Calls nothing but the
 * C library in between, so that the thread's records between the fences are exactly the events. `alone`: no other
 * thread runs. */
size_t run(struct event *log, size_t log_capacity, size_t fence, size_t s, int alone)
{
    out = log;
    count = 0;
    capacity = log_capacity;
    void *a = malloc(fence);
    mallocs(s);
    reallocs(s);
    aligned(s);
    maps(s);
    remaps(s);
    if (alone) {
        breaks();
        signals();
    }
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

/* A thread that C made: before Python knows it, in a Python function that it calls, and in a destructor of its own
 * specific data, when Python has forgotten it again. */
struct stranger {
    struct event *log;
    size_t fence, size;
    void (*enter_python)(void);
    void *held;
    int tid;
    size_t before_count, all_count;
};

static pthread_key_t ending;

static void at_end(void *argument)
{
    struct stranger *self = argument;
    category = ENDINGS;
    void *p = say(MALLOC, malloc(self->size), self->size);
    p = moved(p, realloc(p, 9 * self->size), 9 * self->size);
    gone(say(CALLOC, calloc(3, self->size), 3 * self->size));
    gone(p);
    unmapped(mapped(self->size), self->size);
    void *b = malloc(self->fence);
    free(self->held);
    free(b);
    self->all_count = count;
}

static void *live(void *argument)
{
    struct stranger *self = argument;
    out = self->log;
    count = 0;
    capacity = 4096;
    self->tid = gettid();
    pthread_setspecific(ending, self);
    void *a = malloc(self->fence);
    mallocs(self->size);
    reallocs(self->size);
    void *b = malloc(self->fence);
    free(a);
    free(b);
    self->before_count = count;
    self->enter_python();
    self->held = malloc(self->fence);
    return NULL;
}

/* The thread allocates its fence four times: around what it does before Python, and around what its destructor does. */
void stranger(struct stranger *self)
{
    pthread_t thread;
    pthread_key_create(&ending, at_end);
    if (pthread_create(&thread, NULL, live, self) || pthread_join(thread, NULL))
        abort();
    pthread_key_delete(ending);
}

void churn(size_t size, int times)
{
    for (int i = 0; i < times; i++)
        free(malloc(size));
}
