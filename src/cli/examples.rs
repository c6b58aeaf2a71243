//! What each command's help ends with: what one would type. The tests run the lines of every command that reads a
//! capture or lists something.

/// Commands and their examples.
pub const EXAMPLES: [(&str, &str); 17] = [
    (
        "ps",
        "\
Examples:
  memray ps                     all Python processes that can be seen
  memray ps gunicorn            those with this executable, script or module
  memray ps --json              for scripts

Nothing is stopped or written. ATTACH says \"NO\" where attach would be refused; the
reason is below the list. Exit status: 0 also where there is none, 2 usage.",
    ),
    (
        "attach",
        "\
Examples:
  memray attach 4242 --duration 30          what it keeps, and whether it grows
  memray attach 4242                        on a terminal: what lives, as it does
  memray attach 4242 -o leak.bin            in the background, until memray detach
  memray attach 4242 --until-rss 2G         until it has so much
  memray attach 4242 --native --duration 1m with C, C++ and Rust functions
  memray attach --children 4242 --duration 30   a pool: the process and its workers
  memray attach --all gunicorn --duration 30    all of that name
  memray attach 4242 4243 -o pool.bin           into pool.bin.4242, pool.bin.4243

Exit status: 0 done, 1 it failed (of several: any of them), 2 usage.",
    ),
    (
        "live",
        "\
Examples:
  memray live 4242              what lives in a process that is tracked already, by
                                memray attach -o or memray run, from any terminal
  memray status                 which processes are tracked

q leaves the view, and the session goes on; memray detach ends it. Any number of
terminals may watch. Exit status: 0 done, 1 it failed, 2 usage.",
    ),
    (
        "detach",
        "\
Examples:
  memray detach 4242            ends its window; the capture is then complete
  memray detach --children 4242   of a pool: the process and its workers
  memray detach --all gunicorn    all of that name that are tracked
It also puts back what a memray that was killed left in the process.

Exit status: 0 done, 1 it failed (of several: any of them), 2 usage.",
    ),
    (
        "run",
        "\
Examples:
  memray run app.py --port 80   from the first line to the end; what follows the
                                script is its own
  memray run -m pytest tests    a module
  memray run -c 'import numpy'  a command
  memray run --live app.py      shows what lives while it runs; q ends the program
  memray run --live-remote app.py   waits for memray live PID in another terminal
  memray run -o out.bin -f --python .venv/bin/python app.py

The program's input, output, signals and exit status are its own; memray's words
go to standard error. Exit status: the program's; 1 if it could not be tracked,
and then it was not started; 2 usage.",
    ),
    (
        "doctor",
        "\
Examples:
  memray doctor 4242            would `memray attach 4242` work? what is in the way?
  memray doctor                 what does this machine permit?
  memray doctor 4242 --json     the same for scripts
  memray doctor 4242 --repair   first put back what a memray that was killed left
                                in 4242, or what 4242 inherited by a fork

Exit status: 0 attach would work, 1 it would not, 2 usage.",
    ),
    (
        "status",
        "\
Examples:
  memray status                 all sessions of yours; as root, everybody's
  memray status 4242            the one on process 4242
  memray status --json          for scripts

Exit status: 0 also without any session, 1 if PID has none, 2 usage.",
    ),
    (
        "summary",
        "\
Examples:
  memray summary app.bin                 what was held at the high-water mark
  memray summary --leaks -r 50 app.bin   what was never freed, 50 lines
  memray summary -s 3 app.bin            by own memory
  memray summary --threads --by-line app.bin",
    ),
    (
        "leaks",
        "\
Examples:
  memray leaks app.bin                   what was never freed, by line
  memray leaks --json app.bin            for scripts, uncut
  memray leaks -o leaks.txt -f app.bin   into a file",
    ),
    (
        "tree",
        "\
Examples:
  memray tree app.bin                    the calls that led to the high-water mark
  memray tree --leaks -b 20 app.bin      to what was never freed, the 20 largest
  memray tree --json app.bin             for scripts",
    ),
    (
        "growth",
        "\
Examples:
  memray growth app.bin                  what holds more and more, the fastest first
  memray growth --json app.bin           with the series behind it",
    ),
    (
        "diff",
        "\
Examples:
  memray diff monday.bin friday.bin          what holds more, what less
  memray diff --leaks --by-line a.bin b.bin  of what was never freed, by line",
    ),
    (
        "table",
        "\
Examples:
  memray table app.bin                   what each line holds, by allocator
  memray table --html --leaks app.bin    a page to sort and search",
    ),
    (
        "flamegraph",
        "\
Examples:
  memray flamegraph app.bin               what was held at the high-water mark
  memray flamegraph --leaks app.bin       what was still live at the end
  memray flamegraph --temporal app.bin    the high-water mark of any range of time
  memray flamegraph --temporal --leaks app.bin
                                          what came in any range of time, and stayed",
    ),
    (
        "transform",
        "\
Examples:
  memray transform csv app.bin                      memray-csv-app.csv
  memray transform pprof app.bin && go tool pprof -http=: memray-pprof-app.pb.gz
  memray transform folded --leaks -o - app.bin | flamegraph.pl > leaks.svg
  memray transform gprof2dot -o - app.bin | gprof2dot -f json | dot -Tsvg",
    ),
    (
        "stats",
        "\
Examples:
  memray stats app.bin                   counts, sizes, the largest lines and packages
  memray stats --json -o - app.bin       the same for scripts, to standard output",
    ),
    (
        "parse",
        "\
Examples:
  memray parse app.bin | head            records, one a line
  memray parse app.bin | grep THREAD",
    ),
];
