// Busy in every way: run(KIND) does one thing over and over, checks each result, and returns how often it did it once
// standard input has something to read, or a negative number if a result was wrong.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define NATIVE_THREADS 4

static volatile int stopping;

static int may_go_on(long done) {
    struct pollfd input = {0, POLLIN, 0};
    if (done % 64 == 0 && poll(&input, 1, 0) > 0)
        stopping = 1;
    return !stopping;
}

// Integer and vector registers live across the whole loop.
static int spin_once(void) {
    uint64_t integer = 1;
    double sums[8] = {0};
    for (int i = 0; i < 5000; i++) {
        integer = integer * 6364136223846793005u + 1442695040888963407u;
        for (int lane = 0; lane < 8; lane++)
            sums[lane] += lane + 0.5;
    }
    for (int lane = 0; lane < 8; lane++)
        if (sums[lane] != 5000 * (lane + 0.5))
            return -1;
    static uint64_t expected;
    if (expected == 0)
        expected = integer;
    return integer == expected ? 0 : -1;
}

static int malloc_once(void) {
    static __thread unsigned number;
    unsigned char *blocks[32];
    for (int i = 0; i < 32; i++) {
        number = number * 1103515245 + 12345;
        size_t bytes = 1 + number % 3000;
        blocks[i] = malloc(bytes);
        memset(blocks[i], i, bytes);
        if (i % 3 == 0)
            blocks[i] = realloc(blocks[i], bytes + 500);
    }
    int bad = 0;
    for (int i = 0; i < 32; i++) {
        bad |= blocks[i][0] != i;
        free(blocks[i]);
    }
    return bad ? -2 : 0;
}

static int dlopen_once(void) {
    void *library = dlopen("libutil.so.1", RTLD_NOW), *other = dlopen("libm.so.6", RTLD_LAZY);
    if (other == NULL)
        return -3;
    double (*cosine)(double) = (double (*)(double))dlsym(other, "cos");
    if (cosine == NULL || cosine(0) != 1)
        return -3;
    if (library != NULL)
        dlclose(library);
    return dlclose(other) == 0 ? 0 : -3;
}

static int fork_once(int shares_memory) {
    pid_t child = shares_memory ? vfork() : fork();
    if (child == 0)
        _exit(3);
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 3)
        return -4;
    return 0;
}

static void *answer(void *question) {
    return (char *)question + 1;
}

static int thread_once(void) {
    pthread_t thread;
    void *answered;
    char question;
    if (pthread_create(&thread, NULL, answer, &question) != 0 || pthread_join(thread, &answered) != 0)
        return -5;
    return answered == &question + 1 ? 0 : -5;
}

static void *echo(void *ends) {
    int *fds = ends;
    char byte;
    while (read(fds[0], &byte, 1) == 1)
        if (write(fds[1], &byte, 1) != 1)
            break;
    return NULL;
}

// One thread passes each byte to another and gets it back: no read or write may be lost, doubled or interrupted.
static long ping_pong(void) {
    int there[2], back[2];
    pthread_t thread;
    if (pipe(there) != 0 || pipe(back) != 0)
        return -6;
    int ends[2] = {there[0], back[1]};
    pthread_create(&thread, NULL, echo, ends);
    long done = 0;
    for (; may_go_on(done); done++) {
        unsigned char byte = done, got;
        if (write(there[1], &byte, 1) != 1 || read(back[0], &got, 1) != 1 || got != byte)
            return -6;
    }
    close(there[1]);
    pthread_join(thread, NULL);
    return done;
}

static int system_calls_once(void) {
    char byte = 1;
    int pair[2];
    if (getppid() <= 0 || pipe(pair) != 0 || write(pair[1], &byte, 1) != 1 || read(pair[0], &byte, 1) != 1)
        return -7;
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || munmap(page, 4096) != 0)
        return -7;
    return close(pair[0]) == 0 && close(pair[1]) == 0 ? 0 : -7;
}

static volatile long signal_count;

static void on_alarm(int number) {
    (void)number;
    int before = errno;
    signal_count++;
    errno = before;
}

// A handler on an alternate stack a thousand times a second, over a loop that must not notice.
static long signals(void) {
    static unsigned char stack[256 << 10];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack}, after;
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_ONSTACK | SA_RESTART};
    struct itimerval every = {{0, 1000}, {0, 1000}}, none = {{0, 0}, {0, 0}};
    sigaltstack(&alternate, NULL);
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    long done = 0, bad = 0;
    for (; may_go_on(done) && !bad; done++)
        bad = spin_once();
    setitimer(ITIMER_REAL, &none, NULL);
    sigaltstack(NULL, &after);
    if (after.ss_sp != stack || after.ss_size != sizeof stack || signal_count == 0)
        return -8;
    return bad ? bad : done;
}

static void *native_work(void *unused) {
    (void)unused;
    long bad = 0;
    while (!stopping && !bad)
        bad = spin_once() | malloc_once();
    return (void *)bad;
}

// Threads that Python knows nothing of, while its own thread waits for them, as in a numerical library.
static long native_threads(void) {
    pthread_t threads[NATIVE_THREADS];
    for (int i = 0; i < NATIVE_THREADS; i++)
        pthread_create(&threads[i], NULL, native_work, NULL);
    struct pollfd input = {0, POLLIN, 0};
    poll(&input, 1, -1);
    stopping = 1;
    for (int i = 0; i < NATIVE_THREADS; i++) {
        void *bad;
        pthread_join(threads[i], &bad);
        if (bad != NULL)
            return -9;
    }
    return 1000;
}

// Short waits, of which none may fail.
static int epoll_once(void) {
    static int poller = -1;
    struct epoll_event event;
    if (poller < 0)
        poller = epoll_create1(0);
    return epoll_wait(poller, &event, 1, 1) == 0 ? 0 : -10;
}

long run(const char *kind) {
    if (strcmp(kind, "ping_pong") == 0)
        return ping_pong();
    if (strcmp(kind, "signals") == 0)
        return signals();
    if (strcmp(kind, "native_threads") == 0)
        return native_threads();
    long done = 0, bad = 0;
    for (; may_go_on(done) && bad == 0; done++) {
        if (strcmp(kind, "spin") == 0)
            bad = spin_once();
        else if (strcmp(kind, "malloc") == 0)
            bad = malloc_once();
        else if (strcmp(kind, "dlopen") == 0)
            bad = dlopen_once();
        else if (strcmp(kind, "fork") == 0 || strcmp(kind, "vfork") == 0)
            bad = fork_once(kind[0] == 'v');
        else if (strcmp(kind, "threads") == 0)
            bad = thread_once();
        else if (strcmp(kind, "system_calls") == 0)
            bad = system_calls_once();
        else if (strcmp(kind, "epoll") == 0)
            bad = epoll_once();
        else
            return -100;
    }
    return bad ? bad : done;
}
