// A vfork whose child takes its time.
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int vfork_and_wait(int ms) {
    struct timespec time = {ms / 1000, ms % 1000 * 1000000L};
    pid_t child = vfork();
    if (child == 0) {
        nanosleep(&time, NULL);
        _exit(3);
    }
    int status;
    while (waitpid(child, &status, 0) < 0)
        ;
    return WEXITSTATUS(status);
}
