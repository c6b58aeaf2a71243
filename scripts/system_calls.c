/* Runs a program and, after its Nth system call, kills it, kills it together with its child, or: has the Nth fail.
 *
 * usage: system_calls REPORT LOG|- MARK AT ACTION DEADLINE_S PROGRAM ARGUMENT …
 *
 * MARK says from where calls are counted, and whose:
 *   main     the program's, from its first poll (Rust's runtime, before main)
 *   ready    the program's, from when it has read one byte: memray's guardian is ready, after which it first touches
 *   live     the program's, from its first read that has to try again: memray's window has begun
 *   end      the program's, from there on too, where it is sent SIGTERM: what follows is the detach
 *   birth    the child's, from its first until the program's window has begun
 *   orphan   the child's: the program is killed where `live` is, and the child's calls from its next read of nothing,
 *            the end of the pipe from its parent
 * AT: a number from 1; 0 acts on none. ACTION: kill, killall (child first, both within a microsecond), or ERROR:CALL,
 * two numbers: the ATth of those calls fails with that error and is not made. Counting stops where the next mark is.
 *
 * LOG gets a line for each counted call: its number and what it returned. REPORT gets `name value` lines: the status
 * of the program (as wait gives it), the child's pid, times in nanoseconds, the call that was acted on.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TASKS_MAX = 4096 };
/* What is known of a traced thread. */
static struct task {
    pid_t tid;
    int is_inside, is_failing;
    long number;
} tasks[TASKS_MAX];
static int task_count;

static struct task *task_of(pid_t tid) {
    for (int i = 0; i < task_count; i++)
        if (tasks[i].tid == tid) return &tasks[i];
    if (task_count == TASKS_MAX) exit(3);
    memset(&tasks[task_count], 0, sizeof tasks[0]);
    tasks[task_count].tid = tid;
    return &tasks[task_count++];
}

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static pid_t process_of(pid_t tid) {
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/status", tid);
    FILE *file = fopen(path, "r");
    pid_t found = tid;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "Tgid: %d", &found) == 1) break;
    if (file) fclose(file);
    return found;
}

static pid_t program, child;
static FILE *report;
static volatile sig_atomic_t is_late;

static void late(int signal) {
    (void)signal;
    is_late = 1;
    kill(program, SIGKILL);
    alarm(5);
}

int main(int argc, char **argv) {
    if (argc < 8) return 2;
    report = fopen(argv[1], "w");
    FILE *log = strcmp(argv[2], "-") ? fopen(argv[2], "w") : NULL;
    const char *mark = argv[3], *action = argv[5];
    long at = atol(argv[4]), count = 0;
    int fail = atoi(action), failing_call = fail ? atoi(strchr(action, ':') + 1) : 0, is_orphan = !strcmp(mark, "orphan");
    int is_childs = is_orphan || !strcmp(mark, "birth");
    int is_counting = 0, is_done = 0, has_begun = 0, program_is_dead = 0;
    if (!report) return 2;
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    program = fork();
    if (program == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        execvp(argv[7], argv + 7);
        _exit(127);
    }
    struct sigaction action_late = {.sa_handler = late};
    sigaction(SIGALRM, &action_late, NULL);
    alarm(atoi(argv[6]));
    int status;
    waitpid(program, &status, 0);
    ptrace(PTRACE_SETOPTIONS, program, 0,
           PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC |
               PTRACE_O_EXITKILL);
    ptrace(PTRACE_SYSCALL, program, 0, 0);
    for (;;) {
        pid_t tid = waitpid(-1, &status, __WALL);
        if (tid < 0 && errno == EINTR) continue;
        if (tid < 0) break;
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (tid == program) {
                fprintf(report, "status %d\nprogram_end_ns %lld\n", status, now_ns());
                program_is_dead = 1;
            } else if (tid == child) {
                fprintf(report, "child_status %d\nchild_end_ns %lld\n", status, now_ns());
            }
            continue;
        }
        int signal = WSTOPSIG(status), event = status >> 16;
        pid_t process = tid == program || tid == child ? tid : process_of(tid);
        if (process != program && !child && process != tid) process = program;
        if (process != program && child == 0) {
            child = process;
            fprintf(report, "child %d\n", child);
            has_begun = 1;
            if (!strcmp(mark, "birth")) is_counting = 1;
        }
        struct task *task = task_of(tid);
        if (process != program && !is_childs) {
            /* Goes on by itself. */
            if (ptrace(PTRACE_DETACH, tid, 0, 0) == 0 || errno == ESRCH) continue;
        }
        int pass = 0;
        if (signal == (SIGTRAP | 0x80)) {
            struct user_regs_struct registers;
            if (ptrace(PTRACE_GETREGS, tid, 0, &registers) < 0) continue;
            task->is_inside = !task->is_inside;
            int is_counted = is_counting && !is_done && (process == program) != is_childs;
            if (task->is_inside) {
                task->number = registers.orig_rax;
                task->is_failing = 0;
                if (is_counted && fail && task->number == failing_call && ++count == at) {
                    task->is_failing = 1;
                    registers.orig_rax = -1;
                    ptrace(PTRACE_SETREGS, tid, 0, &registers);
                    fprintf(report, "acted %ld\nacted_ns %lld\n", task->number, now_ns());
                    is_done = 1;
                }
            } else {
                long result = registers.rax;
                if (task->is_failing) {
                    registers.rax = -fail;
                    ptrace(PTRACE_SETREGS, tid, 0, &registers);
                    task->is_failing = 0;
                } else if (is_counted && !fail) {
                    count++;
                    if (log) fprintf(log, "%ld %ld\n", task->number, result);
                    if (count == at) {
                        pid_t doomed = is_childs ? child : program;
                        long long acted_ns = now_ns();
                        if (!strcmp(action, "killall") && child) kill(child, SIGKILL);
                        kill(doomed, SIGKILL);
                        fprintf(report, "acted %ld\nacted_ns %lld\n", task->number, acted_ns);
                        is_done = 1;
                    }
                }
                int is_read = task->number == SYS_read;
                if (process == program && task->number == SYS_poll && !has_begun) {
                    has_begun = 1;
                    if (!strcmp(mark, "main")) is_counting = 1;
                } else if (process == program && child && is_read && registers.rdx == 1 && result == 1) {
                    fprintf(report, "ready 1\n");
                    if (!strcmp(mark, "main")) is_counting = 0;
                    if (!strcmp(mark, "ready")) is_counting = 1;
                } else if (process == program && child && is_read && result == -EAGAIN) {
                    if (!strcmp(mark, "ready") || !strcmp(mark, "birth")) is_counting = 0, mark = "over";
                    if (!strcmp(mark, "live")) is_counting = 1;
                    if (!strcmp(mark, "end")) is_counting = 1, mark = "over", kill(program, SIGTERM);
                    if (is_orphan && !program_is_dead) {
                        fprintf(report, "killed_ns %lld\n", now_ns());
                        kill(program, SIGKILL);
                        program_is_dead = 1;
                    }
                } else if (is_orphan && process == child && is_read && result == 0 && registers.rdi == 0) {
                    is_counting = 1;
                }
            }
        } else if (event == 0 && signal != SIGTRAP && !(signal == SIGSTOP && tid != program)) {
            pass = signal;
        }
        ptrace(PTRACE_SYSCALL, tid, 0, pass);
    }
    fprintf(report, "calls %ld\nlate %d\n", count, is_late);
    return 0;
}
