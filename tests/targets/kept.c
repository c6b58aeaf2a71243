/* Keeps pointers to the allocation functions in every way that programs do: taken in a window, used after it. Each
 * `keep_…` takes pointers through the library's slots; `use_…` answers 1 where all is well. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef void *allocate(size_t);
typedef void release(void *);

static struct {
    allocate *malloc;
    release *free;
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    int (*posix_memalign)(void **, size_t, size_t);
} table;

/* Where a pointer to malloc leads that is taken now. */
long taken(void) { return (long)(allocate *volatile)malloc; }

long keep_table(void)
{
    table.malloc = malloc;
    table.free = free;
    table.calloc = calloc;
    table.realloc = realloc;
    table.posix_memalign = posix_memalign;
    return (long)table.malloc;
}

static long held(void) { return (long)mallinfo2().uordblks + (long)mallinfo2().hblkhd; }

static int check(unsigned char *block, size_t size, int value)
{
    for (size_t i = 0; i < size; i++)
        if (block[i] != value)
            return 0;
    return 1;
}

long use_table(long times)
{
    for (long i = 0; i < times; i++) {
        size_t size = 50 + i % 5000;
        unsigned char *a = table.malloc(size), *b = table.calloc(3, size);
        void *c = NULL;
        if (!a || !b || table.posix_memalign(&c, 64, size) || (uintptr_t)c % 64 || !check(b, 3 * size, 0))
            return 0;
        memset(a, 7, size);
        a = table.realloc(a, size * 9);
        if (!a || !check(a, size, 7))
            return 0;
        table.free(a);
        table.free(b);
        table.free(c);
    }
    return 1;
}

/* In a child, which has the pointers too. */
long use_in_child(long times)
{
    int status;
    pid_t child = fork();
    if (child == 0)
        _exit(use_table(times) ? 0 : 1);
    return waitpid(child, &status, 0) == child && status == 0;
}

static pthread_key_t key;

long keep_key(void) { return pthread_key_create(&key, free) == 0; }

static void *with_key(void *argument)
{
    pthread_setspecific(key, malloc(1 << 20));
    return argument;
}

/* The destructor runs at each thread's end: what it does not free stays. */
long use_key(long times)
{
    pthread_t thread;
    long before = held();
    for (long i = 0; i < times; i++)
        if (pthread_create(&thread, NULL, with_key, NULL) || pthread_join(thread, NULL))
            return 0;
    return held() - before < times << 19;
}

int __cxa_atexit(void (*)(void *), void *, void *);

long keep_at_exit(void)
{
    /* on_exit gives the status first: free(NULL) for a good end. */
    return on_exit((void (*)(int, void *))free, NULL) == 0 && __cxa_atexit(free, malloc(5000), NULL) == 0;
}

static struct object {
    void *data;
    release *destroy;
} objects[1000];

long keep_objects(void)
{
    for (int i = 0; i < 1000; i++)
        objects[i] = (struct object){malloc(1000 + i), free};
    return objects[0].data != NULL;
}

long use_objects(void)
{
    long before = held();
    for (int i = 0; i < 1000; i++)
        objects[i].destroy(objects[i].data);
    return before - held() >= 1000000;
}

static volatile int stop;
static volatile long rounds;
static pthread_t hoisted;

static void *loop(void *argument)
{
    /* Loaded once, kept in registers that survive calls. */
    register allocate *in_rbx __asm__("rbx") = malloc;
    register release *in_r12 __asm__("r12") = free;
    while (!stop) {
        register void *block __asm__("rax");
        __asm__ volatile("mov $200, %%edi\n\tcall *%%rbx" : "=r"(block), "+r"(in_rbx), "+r"(in_r12)
                         :: "rdi", "rsi", "rdx", "rcx", "r8", "r9", "r10", "r11", "memory", "cc");
        __asm__ volatile("mov %%rax, %%rdi\n\tcall *%%r12" : "+r"(block), "+r"(in_rbx), "+r"(in_r12)
                         :: "rdi", "rsi", "rdx", "rcx", "r8", "r9", "r10", "r11", "memory", "cc");
        rounds++;
    }
    return argument;
}

long keep_hoisted(void)
{
    stop = 0;
    return pthread_create(&hoisted, NULL, loop, NULL) == 0;
}

/* Whether it goes on running; then ends it. */
long progress(void)
{
    long before = rounds;
    for (int i = 0; i < 5000 && rounds < before + 1000; i++)
        usleep(1000);
    return rounds >= before + 1000;
}

long use_hoisted(void)
{
    long goes_on = progress();
    stop = 1;
    return pthread_join(hoisted, NULL) == 0 && goes_on;
}

enum { THREADS = 8 };
static pthread_t storm[THREADS];
static volatile int failed;

/* Through slots and kept pointers by turns, so that some thread is at every instruction of a hook sooner or later. */
static void *rage(void *argument)
{
    unsigned seed = (unsigned)(uintptr_t)argument;
    while (!stop) {
        size_t size = 16 + rand_r(&seed) % 3000;
        unsigned char value = (unsigned char)seed, *a = malloc(size), *b = table.malloc(size);
        if (!a || !b)
            break;
        memset(a, value, size);
        memset(b, value, size);
        a = table.realloc(a, size + 700);
        b = realloc(b, size + 700);
        if (!check(a, size, value) || !check(b, size, value))
            failed = 1;
        table.free(a);
        free(b);
        rounds++;
    }
    return NULL;
}

long keep_storm(void)
{
    keep_table();
    stop = 0;
    for (long i = 0; i < THREADS; i++)
        if (pthread_create(&storm[i], NULL, rage, (void *)(i + 1)))
            return 0;
    return 1;
}

long use_storm(void)
{
    long goes_on = progress();
    stop = 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(storm[i], NULL);
    return goes_on && !failed;
}
