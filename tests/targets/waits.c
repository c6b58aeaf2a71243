// System calls that block, made by native code that does not retry them: what they return and how long they take is
// what the kernel made of them.
//
// prepare(KIND) sets a wait up and starts a child that ends it after the next line of standard input; wait_for(KIND,
// SECONDS) waits, with a limit where SECONDS is not negative, and returns the call's result or the negative errno.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <mqueue.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define FULL_WRITE (1 << 20)

struct message {
    long type;
    char text[8];
};

// What the child uses to end the wait; everything is set before the fork.
static int out = -1;            // it writes here
static int drain = -1;          // it reads FULL_WRITE bytes from here
static int *word;               // it wakes this futex
static int locked = -1;         // it holds a lock on this file
static char lock_path[] = "lockXXXXXX";
static int semaphores = -1, queue = -1;
static struct sockaddr_un address;
static socklen_t address_bytes;

// What wait_for uses.
static int in = -1;
static int poller = -1;
static pid_t child;
static mqd_t mqueue = -1;
static int ring = -1;
static unsigned *ring_sq_tail, *ring_sq_array;
static struct io_uring_sqe *ring_sqes;

static int is(const char *kind, const char *name) {
    return strncmp(kind, name, strlen(name)) == 0;
}

static void on_signal(int number) {
    (void)number;
}

static void release(const char *kind) {
    if (out >= 0)
        (void)!write(out, "x\n", 2);
    if (drain >= 0) {
        static char bytes[4096];
        for (long left = FULL_WRITE; left > 0;) {
            ssize_t got = read(drain, bytes, sizeof bytes);
            if (got <= 0)
                break;
            left -= got;
        }
    }
    if (word != NULL) {
        *word = 1;
        syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
    }
    if (locked >= 0)
        close(locked);
    if (semaphores >= 0)
        semop(semaphores, &(struct sembuf){0, 1, 0}, 1);
    if (queue >= 0)
        msgsnd(queue, &(struct message){1, "x"}, 2, 0);
    if (mqueue >= 0)
        mq_send(mqueue, "x", 1, 0);
    if (address_bytes > 0) {
        int client = socket(AF_UNIX, SOCK_STREAM, 0);
        connect(client, (struct sockaddr *)&address, address_bytes);
    }
    if (is(kind, "pause") || is(kind, "sig"))
        kill(getppid(), SIGUSR1);
}

static void make_pair(int pair[2], const char *kind) {
    if (is(kind, "recv") || is(kind, "send") || is(kind, "read_socket") || is(kind, "writev_socket"))
        socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    else
        (void)!pipe(pair);
}

static int ring_setup(void) {
    struct io_uring_params params;
    memset(&params, 0, sizeof params);
    ring = syscall(SYS_io_uring_setup, 4, &params);
    if (ring < 0)
        return -1;
    size_t bytes = params.sq_off.array + params.sq_entries * sizeof(unsigned) + 65536;
    char *queue_base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    ring_sqes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
    if (queue_base == MAP_FAILED || ring_sqes == MAP_FAILED)
        return -1;
    ring_sq_tail = (unsigned *)(queue_base + params.sq_off.tail);
    ring_sq_array = (unsigned *)(queue_base + params.sq_off.array);
    return 0;
}

// A poll of `in` is put into the ring; submitted here or by the wait itself.
static void ring_poll(void) {
    memset(&ring_sqes[0], 0, sizeof ring_sqes[0]);
    ring_sqes[0].opcode = IORING_OP_POLL_ADD;
    ring_sqes[0].fd = in;
    ring_sqes[0].poll32_events = POLLIN;
    ring_sq_array[0] = 0;
    __atomic_store_n(ring_sq_tail, *ring_sq_tail + 1, __ATOMIC_RELEASE);
}

int prepare(const char *kind) {
    int pair[2];
    signal(SIGUSR1, on_signal);
    make_pair(pair, kind);
    in = pair[0], out = pair[1];
    if (is(kind, "read_tty")) {
        struct termios raw;
        openpty(&out, &in, NULL, NULL, NULL);
        tcgetattr(in, &raw);
        cfmakeraw(&raw);
        tcsetattr(in, TCSANOW, &raw);
    } else if (is(kind, "recv_all")) {
        (void)!write(out, "y\n", 2); // the first half
    } else if (is(kind, "write") || is(kind, "send")) {
        drain = pair[0], out = -1, in = pair[1];
    } else if (is(kind, "futex")) {
        word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    } else if (is(kind, "flock") || is(kind, "fcntl_lock")) {
        in = mkstemp(lock_path);
        out = -1;
    } else if (is(kind, "sem")) {
        semaphores = semget(IPC_PRIVATE, 1, 0600);
    } else if (is(kind, "msgrcv")) {
        queue = msgget(IPC_PRIVATE, 0600);
    } else if (is(kind, "mq")) {
        char name[64];
        struct mq_attr attributes = {.mq_maxmsg = 1, .mq_msgsize = 8};
        snprintf(name, sizeof name, "/memray-test-%d", (int)getpid());
        mqueue = mq_open(name, O_CREAT | O_RDWR, 0600, &attributes);
        mq_unlink(name);
        if (mqueue < 0)
            return -errno;
    } else if (is(kind, "accept")) {
        // An address of the kernel's choice, without a file.
        address.sun_family = AF_UNIX;
        in = socket(AF_UNIX, SOCK_STREAM, 0);
        bind(in, (struct sockaddr *)&address, sizeof(sa_family_t));
        listen(in, 1);
        address_bytes = sizeof address;
        getsockname(in, (struct sockaddr *)&address, &address_bytes);
        out = -1;
    } else if (is(kind, "epoll")) {
        poller = epoll_create1(0);
        epoll_ctl(poller, EPOLL_CTL_ADD, in, &(struct epoll_event){.events = EPOLLIN});
    } else if (is(kind, "io_uring")) {
        if (ring_setup() < 0)
            return -errno;
        ring_poll();
        if (!is(kind, "io_uring_submit"))
            syscall(SYS_io_uring_enter, ring, 1, 0, 0, NULL, 0);
    } else if (is(kind, "sigwaitinfo") || is(kind, "sigtimedwait")) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGUSR1);
        sigprocmask(SIG_BLOCK, &set, NULL);
    }
    int ready[2];
    (void)!pipe(ready);
    child = fork();
    if (child == 0) {
        char byte = 0;
        if (is(kind, "flock") || is(kind, "fcntl_lock")) {
            // By an open file of its own: an inherited one would share the parent's lock.
            locked = open(lock_path, O_RDWR);
            if (is(kind, "flock"))
                flock(locked, LOCK_EX);
            else
                fcntl(locked, F_SETLK, &(struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET});
        }
        (void)!write(ready[1], "x", 1);
        // The parent's end of input and of what is drained ends the child, too: a test that failed leaves none.
        if (drain >= 0)
            close(in);
        while (read(0, &byte, 1) == 1 && byte != '\n')
            ;
        if (byte == '\n')
            release(kind);
        _exit(7);
    }
    char byte;
    (void)!read(ready[0], &byte, 1);
    close(ready[0]), close(ready[1]);
    return 0;
}

static long outcome(long result) {
    return result < 0 ? -errno : result;
}

static void set_timeout(double seconds) {
    struct timeval limit = {(long)seconds, (long)((seconds - (long)seconds) * 1e6)};
    setsockopt(in, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(in, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

long wait_for(const char *kind, double seconds) {
    char byte[16];
    struct timespec limit = {(long)seconds, (long)((seconds - (long)seconds) * 1e9)};
    struct timespec *timeout = seconds < 0 ? NULL : &limit;
    int timeout_ms = seconds < 0 ? -1 : (int)(seconds * 1000);
    struct pollfd polled = {in, POLLIN, 0};
    struct epoll_event event;
    struct timespec until;
    fd_set readable;
    sigset_t set;
    sigemptyset(&set);
    FD_ZERO(&readable);
    FD_SET(in < 0 ? 0 : in, &readable);
    if (is(kind, "nanosleep"))
        return outcome(syscall(SYS_nanosleep, &limit, NULL));
    if (is(kind, "clock_nanosleep_until")) {
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += limit.tv_sec;
        return -clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
    if (is(kind, "clock_nanosleep"))
        return -clock_nanosleep(CLOCK_MONOTONIC, 0, &limit, NULL);
    if (is(kind, "poll"))
        return outcome(poll(&polled, 1, timeout_ms));
    if (is(kind, "ppoll"))
        return outcome(ppoll(&polled, 1, timeout, &set));
    if (is(kind, "select"))
        return outcome(select(in + 1, &readable, NULL, NULL,
                              timeout ? &(struct timeval){limit.tv_sec, limit.tv_nsec / 1000} : NULL));
    if (is(kind, "pselect"))
        return outcome(pselect(in + 1, &readable, NULL, NULL, timeout, &set));
    if (is(kind, "epoll_pwait2"))
        return outcome(syscall(SYS_epoll_pwait2, poller, &event, 1, timeout, NULL, 0));
    if (is(kind, "epoll_pwait"))
        return outcome(epoll_pwait(poller, &event, 1, timeout_ms, &set));
    if (is(kind, "epoll"))
        return outcome(epoll_wait(poller, &event, 1, timeout_ms));
    if (is(kind, "futex_until")) {
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += limit.tv_sec;
        return outcome(syscall(SYS_futex, word, FUTEX_WAIT_BITSET, 0, &until, NULL, FUTEX_BITSET_MATCH_ANY));
    }
    if (is(kind, "futex"))
        return outcome(syscall(SYS_futex, word, FUTEX_WAIT, 0, timeout, NULL, 0));
    if (is(kind, "writev_socket") || is(kind, "write") || is(kind, "send")) {
        static char bytes[FULL_WRITE];
        if (is(kind, "send"))
            return outcome(send(in, bytes, sizeof bytes, 0));
        return outcome(write(in, bytes, sizeof bytes));
    }
    if (is(kind, "recv_all"))
        return outcome(recv(in, byte, 4, MSG_WAITALL));
    if (timeout && (is(kind, "recv") || is(kind, "read_socket") || is(kind, "accept")))
        set_timeout(seconds);
    if (is(kind, "recv"))
        return outcome(recv(in, byte, sizeof byte, 0));
    if (is(kind, "read"))
        return outcome(read(in, byte, sizeof byte));
    if (is(kind, "accept"))
        return outcome(accept(in, NULL, NULL)) < 0 ? -errno : 0;
    if (is(kind, "wait4"))
        return outcome(waitpid(child, NULL, 0)) == child ? 0 : -errno;
    if (is(kind, "waitid")) {
        siginfo_t info;
        return outcome(waitid(P_PID, child, &info, WEXITED | WNOWAIT));
    }
    if (is(kind, "flock"))
        return outcome(flock(in, LOCK_EX));
    if (is(kind, "fcntl_lock"))
        return outcome(fcntl(in, F_SETLKW, &(struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET}));
    if (is(kind, "pause"))
        return outcome(pause());
    if (is(kind, "sigsuspend"))
        return outcome(sigsuspend(&set));
    sigaddset(&set, SIGUSR1);
    if (is(kind, "sigwaitinfo"))
        return outcome(sigwaitinfo(&set, NULL));
    if (is(kind, "sigtimedwait"))
        return outcome(sigtimedwait(&set, NULL, timeout));
    if (is(kind, "sem"))
        return outcome(semtimedop(semaphores, &(struct sembuf){0, -1, 0}, 1, timeout));
    if (is(kind, "msgrcv"))
        return outcome(msgrcv(queue, &(struct message){0}, sizeof byte, 0, 0)) >= 0 ? 0 : -errno;
    if (is(kind, "mq")) {
        if (timeout) {
            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_sec += limit.tv_sec;
        }
        return outcome(syscall(SYS_mq_timedreceive, mqueue, byte, sizeof byte, NULL, timeout ? &until : NULL));
    }
    if (is(kind, "io_uring_submit"))
        return outcome(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0));
    if (is(kind, "io_uring") && timeout) {
        struct io_uring_getevents_arg argument = {.ts = (uint64_t)(uintptr_t)timeout};
        unsigned flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
        return outcome(syscall(SYS_io_uring_enter, ring, 0, 1, flags, &argument, sizeof argument));
    }
    if (is(kind, "io_uring"))
        return outcome(syscall(SYS_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0));
    return -ENOSYS;
}

void clean_up(void) {
    if (semaphores >= 0)
        semctl(semaphores, 0, IPC_RMID);
    if (queue >= 0)
        msgctl(queue, IPC_RMID, NULL);
}
