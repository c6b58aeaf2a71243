// Programs that load libpython themselves. usage: embed late|local|idle|two|second LIBPYTHON [ANOTHER]
//
// late: says `ready` before it initialises Python, and goes on at a line; local: with RTLD_LOCAL; two: both are loaded,
// the first runs; second: the second runs. Then serves as `states.py serve` does.
// idle: waits in C for each line, and only then enters Python for some milliseconds.
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char SERVE[] = "import os\n"
                            "def allocate():\n"
                            "    return bytearray(54321)\n"
                            "os.write(1, b'ready\\n')\n"
                            "while os.read(0, 100):\n"
                            "    allocate()\n"
                            "    os.write(1, b'done\\n')\n";

static const char IDLE[] = "kept = []\n"
                           "def answer():\n"
                           "    sum(range(200000))\n"
                           "    kept.append(bytearray(54321))\n";

static int answer_from_c(int (*run)(const char *)) {
    char byte;
    if (run(IDLE) != 0)
        return 1;
    (void)!write(1, "ready\n", 6);
    while (read(0, &byte, 1) == 1) {
        if (byte != '\n')
            continue;
        if (run("answer()") != 0)
            return 1;
        (void)!write(1, "done\n", 5);
    }
    return 0;
}

static void *load(const char *path, int flags) {
    void *library = dlopen(path, RTLD_NOW | flags);
    if (library == NULL)
        fprintf(stderr, "%s\n", dlerror());
    return library;
}

int main(int count, char **arguments) {
    if (count < 3)
        return 2;
    const char *mode = arguments[1];
    char byte;
    void *python = load(arguments[2], strcmp(mode, "late") == 0 ? RTLD_GLOBAL : RTLD_LOCAL);
    void *other = count > 3 ? load(arguments[3], RTLD_LOCAL) : NULL;
    if (strcmp(mode, "second") == 0)
        python = other;
    if (python == NULL)
        return 1;
    if (strcmp(mode, "late") == 0) {
        (void)!write(1, "ready\n", 6);
        while (read(0, &byte, 1) == 1 && byte != '\n')
            ;
    }
    void (*initialise)(int) = (void (*)(int))dlsym(python, "Py_InitializeEx");
    int (*run)(const char *) = (int (*)(const char *))dlsym(python, "PyRun_SimpleString");
    initialise(0);
    return strcmp(mode, "idle") == 0 ? answer_from_c(run) : run(SERVE);
}
